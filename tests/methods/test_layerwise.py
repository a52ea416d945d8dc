"""Methods that prune layer by layer, against brute force in float64."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.config.pattern import Groups
from ntt_cli.methods.layerwise import damped, masked_least_squares
from ntt_cli.methods.obc import kept_of_groups, removal_order, removals
from ntt_cli.methods.sparsegpt import sparsegpt
from ntt_cli.runtime.events import Warned
from ntt_cli.runtime.seeding import seeded


def problem(rows: int = 3, inputs: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `[1, o, i]`, and the inputs of the dense and of the pruned network, `[t, i]`."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    dense = torch.randn(40, inputs, generator=generator, dtype=torch.float64) @ mixing
    pruned = dense + 0.3 * torch.randn(40, inputs, generator=generator, dtype=torch.float64)
    return torch.randn(1, rows, inputs, generator=generator, dtype=torch.float64), dense, pruned


def best_under(mask: Tensor, weight: Tensor, dense: Tensor, x: Tensor) -> tuple[Tensor, float]:
    """The row of weights that `lstsq` finds for the kept inputs, and the squared error that it leaves."""
    solved, target = torch.zeros_like(weight), dense @ weight
    if mask.any():
        solved[mask] = torch.linalg.lstsq(x[:, mask], target[:, None]).solution[:, 0]
    return solved, float((x @ solved - target).square().sum())


def greedy(weight: Tensor, dense: Tensor, x: Tensor) -> list[tuple[int, int]]:
    """The order in which a layer loses its weights, if after each removal all that are left are solved for anew."""
    kept, order = torch.ones_like(weight, dtype=torch.bool), []
    for _ in range(weight.numel()):
        costs = {}
        for row, column in kept.nonzero().tolist():
            less = kept[row].clone()
            less[column] = False
            now = best_under(kept[row], weight[row], dense, x)[1]
            costs[row, column] = best_under(less, weight[row], dense, x)[1] - now
        gone = min(costs, key=costs.__getitem__)
        kept[gone] = False
        order.append(gone)
    return order


def test_weights_go_in_the_order_of_brute_force() -> None:
    weight, dense, x = problem()
    inverse = torch.linalg.inv(x.T @ x)
    place = removal_order(weight @ (dense.T @ x) @ inverse, inverse[None])[0]
    assert sorted(place.flatten().tolist()) == list(range(15))
    found = sorted((float(place[row, column]), (row, column)) for row in range(3) for column in range(5))
    assert [at for _, at in found] == greedy(weight[0], dense, x)


def test_what_removals_cost_is_what_brute_force_says(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, dense, x = problem(rows=2, inputs=6)
    inverse = torch.linalg.inv(x.T @ x)
    monkeypatch.setattr("ntt_cli.methods.obc.ROW_BYTES", {"cpu": 1})  # a row at a time
    losses, columns = removals((weight @ (dense.T @ x) @ inverse)[0], inverse)
    for row in range(2):
        mask = torch.ones(6, dtype=torch.bool)
        before = best_under(mask, weight[0, row], dense, x)[1]
        for loss, column in zip(losses[row], columns[row], strict=True):
            mask[column] = False
            after = best_under(mask, weight[0, row], dense, x)[1]
            assert float(loss) == pytest.approx(after - before, rel=1e-8)
            before = after


def test_weights_under_a_mask_are_those_of_lstsq() -> None:
    weight, dense, x = problem()
    mask = torch.tensor([[[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]], dtype=torch.bool)
    found = masked_least_squares((x.T @ x)[None], weight @ (dense.T @ x), mask)
    for row in range(3):
        torch.testing.assert_close(found[0, row], best_under(mask[0, row], weight[0, row], dense, x)[0])


def test_dampening_holds_weights_near_the_dense_ones() -> None:
    weight, dense, x = problem()
    hessian, cross = damped((x.T @ x)[None], (dense.T @ x)[None], dampening=0.1)
    shift = 0.1 * (x.T @ x).diagonal().mean()
    rows = torch.cat([x, shift.sqrt() * torch.eye(5, dtype=torch.float64)])
    targets = torch.cat([dense, shift.sqrt() * torch.eye(5, dtype=torch.float64)]) @ weight[0].T
    expected = torch.linalg.lstsq(rows, targets).solution.T
    found = masked_least_squares(hessian, weight @ cross, torch.ones_like(weight, dtype=torch.bool))
    torch.testing.assert_close(found[0], expected)
    hessian, _ = damped(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), dampening=0.1)
    assert hessian.tolist() == [[[1, 0], [0, 1]]]


@pytest.mark.parametrize(("groups", "block"), [(1, 5), (1, 2), (2, 3)])
def test_sparsegpt_is_a_pass_over_the_columns(groups: int, block: int) -> None:
    """Column by column, from the inverse of what is left of the Hessian, computed anew each time."""
    weight, dense, x = problem(rows=4)
    weight = weight.view(groups, 4 // groups, 5)
    hessian = torch.stack([(y.T @ y) / len(y) for y in (x, dense)[:groups]])
    mask, found = sparsegpt(weight, hessian, n_keep=9, block=block)
    assert int(mask.sum()) == 9
    assert torch.equal(found == 0, ~mask)
    expected = weight.clone()
    for start in range(0, 5, block):
        columns = range(start, min(start + block, 5))
        scores = torch.stack([
            torch.stack([expected[g, :, j].square() / torch.linalg.inv(hessian[g, j:, j:])[0, 0] for j in columns], 1)
            for g in range(groups)
        ])
        kept = mask[..., columns.start : columns.stop]
        count = round(9 * columns.stop / 5) - round(9 * columns.start / 5)
        assert int(kept.sum()) == count
        assert count == 0 or scores[kept].min() >= max([0.0, *scores[~kept].tolist()])
        for g, j in itertools.product(range(groups), columns):
            inverse = torch.linalg.inv(hessian[g, j:, j:])
            for row in range(len(weight[g])):
                if not mask[g, row, j]:
                    expected[g, row, j:] -= expected[g, row, j].clone() / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(found, torch.where(mask, expected, 0))


def pattern_problem() -> tuple[Tensor, Tensor, Tensor]:
    """As `problem`, of 8 inputs and 2 rows, for a pattern of 1:4 or 2:4."""
    return problem(rows=2, inputs=8)


@pytest.mark.parametrize("block", [128, 4, 6])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_sparsegpt_chooses_each_group_once_it_is_reached(block: int, keep: int) -> None:
    """Frantar & Alistarh 2023, section 3.4: weights of a group are compared as the columns before have left them."""
    weight, _, x = pattern_problem()
    hessian = x.T @ x / len(x)
    mask, found = sparsegpt(
        weight, hessian[None], n_keep=16 // 4 * keep, block=block, groups=Groups(keep=keep, of=4, axis=2)
    )
    expected, kept = weight[0].clone(), torch.zeros(2, 8, dtype=torch.bool)
    for j in range(8):
        inverse = torch.linalg.inv(hessian[j:, j:])
        if j % 4 == 0:
            pivots = torch.stack([torch.linalg.inv(hessian[k:, k:])[0, 0] for k in range(j, j + 4)])
            for row in range(2):
                scores = (expected[row, j : j + 4].square() / pivots).tolist()
                best = sorted(range(4), key=lambda k: -scores[k])[:keep]  # noqa: B023
                kept[row, [j + k for k in best]] = True
        for row in range(2):
            if not kept[row, j]:
                expected[row, j:] -= expected[row, j].clone() / inverse[0, 0] * inverse[0]
    assert torch.equal(mask[0], kept)
    torch.testing.assert_close(found[0], torch.where(kept, expected, 0))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_obc_removes_what_costs_least_of_groups_that_can_still_lose(keep: int) -> None:
    weight, dense, x = pattern_problem()
    inverse = torch.linalg.inv(x.T @ x)[None]
    found = kept_of_groups(weight @ (dense.T @ x) @ inverse, inverse, Groups(keep=keep, of=4, axis=2))
    for row in range(2):
        kept = torch.ones(8, dtype=torch.bool)
        while int(kept.sum()) > 2 * keep:
            costs = {}
            for column in kept.nonzero().flatten().tolist():
                group = kept[column // 4 * 4 : column // 4 * 4 + 4]
                if int(group.sum()) > keep:
                    less = kept.clone()
                    less[column] = False
                    costs[column] = best_under(less, weight[0, row], dense, x)[1]
            kept[min(costs, key=costs.__getitem__)] = False
        assert torch.equal(found[0, row], kept)


class Small(nn.Module):
    """A convolution, one in groups that strides, and a Linear layer, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 2, stride=2, groups=2)
        self.last = nn.Linear(16, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.first(x))))
        return self.last(x.flatten(1))


@pytest.fixture
def network() -> Small:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return Small()


X = torch.randn(60, 2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def columns_of(x: Tensor) -> Tensor:
    """What the first convolution multiplies, `[t, i]`."""
    return F.unfold(x, 3, padding=1).mT.reshape(-1, 18)


@pytest.mark.parametrize("method", ["obc", "sparsegpt", "reconstruct", "asr"])
def test_each_layer_meets_its_count(network: Small, method: str) -> None:
    result = ntt.prune(network, X, sparsity=0.6, method=method)
    magnitude = ntt.prune(network, X, sparsity=0.6, method="magnitude")
    for name, mask in result.masks.items():
        assert int(mask.sum()) == int(magnitude.masks[name].sum())
        assert torch.equal(result.model.get_parameter(name) == 0, ~mask)
    assert result.report.steps == 0


class Wide(nn.Module):
    """Convolutions of 4 and of 2 · 4 channels, and a Linear layer of 16 inputs, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 4, 2, stride=2, groups=2)
        self.last = nn.Linear(16, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.first(x))))
        return self.last(x.flatten(1))


def test_groups_of_a_convolution_are_solved_as_those_of_its_unfolded_inputs() -> None:
    """SparseGPT on patches whose columns are sorted by position first and by channel second."""
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        network, x = Wide(), torch.randn(50, 4, 4, 4, dtype=torch.float64)
    result = ntt.prune(network, x, pattern="2:4", method="sparsegpt")
    columns = F.unfold(x, 3, padding=1).mT.reshape(-1, 4, 9).transpose(1, 2).reshape(-1, 36)
    weight = network.first.weight.detach().flatten(2).transpose(1, 2).flatten(1)
    hessian, _ = damped((columns.T @ columns)[None], (columns.T @ columns)[None], dampening=0.01)
    mask, solved = sparsegpt(weight[None], hessian, n_keep=144, groups=Groups(keep=2, of=4, axis=2))
    as_weight = lambda values: values[0].unflatten(1, (9, 4)).transpose(1, 2).reshape(8, 4, 3, 3)  # noqa: E731
    assert torch.equal(result.masks["first.weight"], as_weight(mask))
    torch.testing.assert_close(result.model.first.weight.detach(), as_weight(solved), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["obc", "sparsegpt", "reconstruct", "asr"])
def test_every_group_of_a_layer_meets_its_pattern(method: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        network, x = Wide(), torch.randn(50, 4, 4, 4, dtype=torch.float64)
    result = ntt.prune(network, x, pattern="1:4", method=method)
    for name, mask in result.masks.items():
        assert set(mask.unflatten(1, (-1, 4)).sum(2).flatten().tolist()) == {1}, name
        assert torch.equal(result.model.get_parameter(name) == 0, ~mask)


def damped_solution(x: Tensor, dense: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Row by row: the kept weights for which `x w` comes closest to `dense w_d`, held near `w_d` by 1%."""
    share = (0.01 * x.square().sum(0).mean()).sqrt() * torch.eye(x.shape[1], dtype=x.dtype)
    rows, aims = torch.cat([x, share]), torch.cat([dense, share])
    return torch.stack([best_under(kept, row, aims, rows)[0] for row, kept in zip(weight, mask, strict=True)])


def halves_of_patches(x: Tensor) -> list[Tensor]:
    """What the convolution in groups multiplies, `[t, i]` for each group."""
    return [F.unfold(part, 2, stride=2).mT.reshape(-1, 8) for part in x.split(2, dim=1)]


def test_reconstruction_is_a_plain_loop_over_the_layers(network: Small) -> None:
    result = ntt.prune(network, X, sparsity=0.6, method="reconstruct")
    masks, sparse = result.masks, Small()
    sparse.load_state_dict(network.state_dict())
    with torch.no_grad():
        weight, mask = network.first.weight.flatten(1), masks["first.weight"].flatten(1)
        columns = columns_of(X)
        sparse.first.weight[:] = damped_solution(columns, columns, weight, mask).view_as(sparse.first.weight)
        dense, now = (F.relu(model.first(X)) for model in (network, sparse))
        weight, mask = network.grouped.weight.flatten(1).split(2), masks["grouped.weight"].flatten(1).split(2)
        solved = map(damped_solution, halves_of_patches(now), halves_of_patches(dense), weight, mask)
        sparse.grouped.weight[:] = torch.cat(list(solved)).view_as(sparse.grouped.weight)
        dense, now = (F.relu(model.grouped(F.relu(model.first(X)))).flatten(1) for model in (network, sparse))
        sparse.last.weight[:] = damped_solution(now, dense, network.last.weight, masks["last.weight"])
    for name, value in sparse.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_repaired_channels_vary_as_in_the_dense_network(network: Small) -> None:
    result = ntt.prune(network, X, sparsity=0.6, method="asr")
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, layer: nn.Module, x: object, y: Tensor) -> None:
        seen.setdefault(name, []).append(y.detach().transpose(0, 1).flatten(1))

    for model in (network, result.model):
        for name in ("first", "grouped", "last"):
            layer = model.get_submodule(name)
            layer.register_forward_hook(partial(keep, name))
        model(X)
    for name, (dense, sparse) in seen.items():
        alive = result.masks[f"{name}.weight"].flatten(1).any(1)
        assert alive.any()
        torch.testing.assert_close(sparse.var(1)[alive], dense.var(1)[alive], rtol=1e-4, atol=1e-6)


def test_obc_loses_less_than_its_rivals_in_the_first_layer(network: Small) -> None:
    columns, dense, errors = columns_of(X), network.first.weight.detach().flatten(1), {}
    for method in ("obc", "sparsegpt", "reconstruct", "magnitude"):
        weight = ntt.prune(network, X, sparsity=0.6, method=method).model.first.weight.detach().flatten(1)
        errors[method] = float((columns @ (weight - dense).T).square().sum())
    assert errors["obc"] < errors["sparsegpt"] < errors["magnitude"]
    assert errors["obc"] < errors["reconstruct"] < errors["magnitude"]


@pytest.mark.parametrize("method", ["obc", "reconstruct", "gmp"])
def test_steps_match_the_outputs_under_the_mask(network: Small, method: str) -> None:
    options: dict[str, Any] = {"sparsity": 0.8, "method": method, "batch_size": 16}
    result = ntt.prune(network, X, steps=60, **options)
    assert result.report.steps == 60
    aims = network(X).detach()

    def distance(model: nn.Module) -> float:
        return float((model(X).detach() - aims).square().sum() / aims.square().sum())

    if method == "gmp":
        assert distance(result.model) < distance(ntt.prune(network, X, sparsity=0.8, method="magnitude").model)
        return
    before = ntt.prune(network, X, sparsity=0.8, method=method)
    for name, mask in before.masks.items():
        assert torch.equal(result.masks[name], mask)
    assert distance(result.model) < distance(before.model)


def test_distillation_is_adam_on_the_relative_distance(network: Small) -> None:
    """A plain PyTorch loop over the same batches."""
    options: dict[str, Any] = {"sparsity": 0.8, "method": "obc", "batch_size": 8, "learning_rate": 1e-2}
    result = ntt.prune(network, X, steps=3, seed=5, **options)
    sparse = ntt.prune(network, X, sparsity=0.8, method="obc", seed=5)
    model, optimiser = sparse.model, torch.optim.Adam(sparse.model.parameters(), lr=1e-2)
    for step in range(3):
        x = X[torch.randint(len(X), (8,), generator=seeded(5, step))]
        aims = network(x).detach()
        optimiser.zero_grad()
        ((model(x) - aims).square().sum() / aims.square().sum()).backward()
        for name, mask in sparse.masks.items():
            model.get_parameter(name).grad[~mask] = 0
        optimiser.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_gmp_is_ntt_with_magnitude_as_its_score(network: Small) -> None:
    options: dict[str, Any] = {"sparsity": 0.8, "steps": 20, "batch_size": 16}
    gmp = ntt.prune(network, X, method="gmp", **options)
    same = ntt.prune(network, X, method="ntt", score="magnitude", allocation="erk", kernel_weight=0, **options)
    for name, value in same.model.state_dict().items():
        assert torch.equal(gmp.model.state_dict()[name], value)


class Attended(nn.Module):
    """A Linear layer on sequences, a matrix product by hand, and a weight that also acts in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.by_hand = nn.Parameter(torch.randn(6, 5))
        self.other = nn.Linear(5, 5)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.inner(x).relu() @ self.by_hand
        x = self.other(x).relu() + self.other.weight.square().sum()
        counted = attention_mask[..., None].to(x)
        return (x * counted).sum(1) / counted.sum(1)


def test_padding_does_not_count_and_other_weights_go_by_magnitude() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        network, x = Attended(), torch.randn(40, 3, 4)
        mask = (torch.rand(40, 3) < 0.6) | (torch.arange(3) == 0)
    told: list[object] = []
    options: dict[str, Any] = {"sparsity": 0.5, "method": "obc"}
    plain = ntt.prune(network, {"x": x, "attention_mask": mask.long()}, progress=told.append, **options)
    filled = x.masked_fill(~mask[..., None], 1e3)
    padded = ntt.prune(network, {"x": filled, "attention_mask": mask.long()}, **options)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(padded.model.state_dict()[name], value), name
    warned = [event.message for event in told if isinstance(event, Warned)]
    assert [line for line in warned if "obc: other.weight act" in line]
    weight, kept = network.other.weight.detach(), plain.masks["other.weight"]
    assert torch.equal(plain.model.other.weight.detach(), weight * kept)
    assert weight[kept].abs().min() >= weight[~kept].abs().max()
    changed = plain.model.by_hand.detach()[plain.masks["by_hand"]] != network.by_hand.detach()[plain.masks["by_hand"]]
    assert changed.all()


@pytest.mark.parametrize("method", ["reconstruct", "asr"])
def test_a_mask_that_is_not_learned_cannot_be_asked_for(network: Small, method: str) -> None:
    with pytest.raises(ntt.NttError) as caught:
        ntt.prune(network, X, sparsity=0.5, method=method, mask="learned")
    assert f"{method} learns no mask; it takes that of another method, magnitude by default" in str(caught.value)
    assert caught.value.exit_code == 2

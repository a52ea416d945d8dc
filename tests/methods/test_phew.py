from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.errors import ModelError
from ntt_cli.methods.phew import WALKS, _walk_backwards, _walk_forwards, _Walks, phew_scores
from ntt_cli.networks.functional import FunctionalModel, functional_model

NAMES = ["0.weight", "2.weight", "4.weight"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)]
        return nn.Sequential(*layers).double()


def walked(model: FunctionalModel, ones: Tensor, starts: Tensor, *, forwards: bool) -> dict[str, Tensor]:
    """The weights that walks from these units visit, as bools."""
    leaves = {name: p.detach().double().abs().requires_grad_() for name, p in model.params.items()}
    walks = _Walks(leaves, seeded())
    walk = _walk_forwards if forwards else _walk_backwards
    walk(model.bind(), leaves, ones.double().expand(len(starts), *ones.shape).clone(), starts, walks)
    return {name: rounds >= 0 for name, rounds in walks.rounds.items()}


@pytest.mark.parametrize("forwards", [False, True])
def test_one_walk_is_one_path_from_the_unit_where_it_starts(forwards: bool) -> None:
    model = functional_model(network())
    for start in range(3):
        visited = walked(model, torch.ones(6), torch.tensor([start]), forwards=forwards)
        assert [int(visited[name].sum()) for name in NAMES] == [1, 1, 1]
        (a, b, c) = (visited[name].nonzero()[0].tolist() for name in NAMES)
        assert a[0] == b[1]
        assert b[0] == c[1]
        assert (a[1] if forwards else c[0]) == start


@pytest.mark.parametrize("forwards", [False, True])
def test_steps_are_in_proportion_to_the_weights(forwards: bool) -> None:
    """A choice of four weights from one unit, many times, each walk with a copy of the layer to count them apart."""
    weights, copies = torch.tensor([1.0, -2.0, 0.0, 7.0]), 500
    layer = nn.Linear(4, 1, bias=False) if not forwards else nn.Linear(1, 4, bias=False)
    layer.weight.data = weights.view_as(layer.weight)
    counts = torch.zeros(4)
    generator = seeded(3)
    leaves = {"weight": layer.weight.detach().double().abs().requires_grad_()}
    model = functional_model(layer)
    for _ in range(copies):
        walks = _Walks(leaves, generator)
        walk = _walk_forwards if forwards else _walk_backwards
        walk(model.bind(), leaves, torch.ones(1, layer.in_features).double(), torch.zeros(1, dtype=torch.long), walks)
        counts += (walks.rounds["weight"] >= 0).flatten()
    expected = weights.abs() / weights.abs().sum()
    deviation = (expected * (1 - expected) / copies).sqrt()
    assert ((counts / copies - expected).abs() <= 4 * deviation).all()
    assert counts[2] == 0


def test_a_step_through_a_convolution_is_a_weight_of_the_units_kernel() -> None:
    """Only one weight of each kernel is not zero, so that there is one way from each output channel."""
    conv, head = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), nn.Linear(3 * 4, 3, bias=False)
    conv.weight.data.zero_()
    ways = [(0, 0, 1, 2), (1, 1, 0, 1), (2, 0, 2, 2)]
    for way in ways:
        conv.weight.data[way] = 5.0
    head.weight.data = torch.kron(torch.eye(3), torch.ones(1, 4))
    model = functional_model(nn.Sequential(conv, nn.Flatten(), head))
    for forwards in (False, True):
        visited = walked(model, torch.ones(2, 4, 4), torch.arange(32), forwards=forwards)["0.weight"]
        assert {tuple(way) for way in visited.nonzero().tolist()} <= set(ways)
    backwards = walked(model, torch.ones(2, 4, 4), torch.arange(32), forwards=False)["0.weight"]
    assert {tuple(way) for way in backwards.nonzero().tolist()} == set(ways)


def test_the_first_visited_score_highest_and_lie_on_whole_paths() -> None:
    model, density = functional_model(network()), 0.3
    scores = phew_scores(
        model.bind(), model.params, NAMES, torch.ones(1, 6).double(), density=density, generator=seeded()
    )
    a, b, c = (scores[name] >= 1 for name in NAMES)  # visited
    assert sum(int(v.sum()) for v in (a, b, c)) >= density * 150
    assert torch.equal(a.any(1), b.any(0))  # a unit that is entered is left
    assert torch.equal(b.any(1), c.any(0))
    for name in NAMES:
        rest, magnitude = scores[name][scores[name] < 1], model.params[name].abs()[scores[name] < 1]
        assert torch.equal(rest.argsort(), magnitude.argsort())
    assert WALKS == 64


def test_both_branches_of_a_sum_are_walked_from_outputs_and_one_from_inputs() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(x + self.branch(x).relu())
            return result

    model = functional_model(Residual())
    for forwards in (False, True):
        visited = walked(model, torch.ones(4), torch.tensor([0]), forwards=forwards)
        assert int(visited["branch.weight"].sum()) == 1
        assert int(visited["head.weight"].sum()) == 1


def test_weights_where_walks_cannot_go_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.cell(x)[0][:, -1])
            return result

    model = functional_model(Recurrent().double())
    names = ["cell.weight_ih_l0", "head.weight"]
    with pytest.raises(ModelError, match=r"walks cannot follow cell\.weight_ih_l0"):
        phew_scores(model.bind(), model.params, names, torch.ones(1, 5, 3).double(), density=0.5, generator=seeded())

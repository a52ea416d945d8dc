from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.data.samples import IGNORED
from ntt_cli.masks.masks import as_bits
from ntt_cli.runtime.execution import Execution
from ntt_cli.training.step import OptimiserName, SparseModule, default_learning_rate, make_optimiser, training_step
from tests.kernel_cases import random_masks
from tests.shares import in_shares

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 3


def build() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("optimiser", "density", "rate"),
    [
        ("adamw", 1.0, 1e-3),
        ("adamw", 0.25, 2e-3),
        ("adamw", 0.01, 1e-2),
        ("adamw", 0.0001, 1e-2),
        ("sgd", 1.0, 2e-2),
        ("sgd", 0.04, 1e-1),
        ("sgd", 0.001, 2e-1),
    ],
)
def test_default_rate_grows_as_weights_get_fewer_up_to_ten_times(
    optimiser: OptimiserName, density: float, rate: float
) -> None:
    assert default_learning_rate(optimiser, density=density) == pytest.approx(rate, rel=1e-12)


def test_optimisers_are_what_their_names_say() -> None:
    adamw = make_optimiser("adamw", build().parameters(), learning_rate=0.1, weight_decay=0.2)
    sgd = make_optimiser("sgd", build().parameters(), learning_rate=0.3, weight_decay=0.4)
    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(sgd, torch.optim.SGD)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (0.1, 0.2)
    assert (sgd.defaults["lr"], sgd.defaults["weight_decay"], sgd.defaults["momentum"]) == (0.3, 0.4, 0.9)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_pruned_weights_stay_zero_under_momentum_and_decay(name: OptimiserName) -> None:
    module = build()
    parameters = dict(module.named_parameters())
    masks = random_masks(module.state_dict())
    bits = as_bits(masks, parameters)
    optimiser = make_optimiser(name, module.parameters(), learning_rate=0.05, weight_decay=0.1)
    training_step(SparseModule(module, {}), optimiser, X, LABELS)  # momentum everywhere
    losses, network = [], SparseModule(module, bits)
    for _ in range(20):
        losses.append(training_step(network, optimiser, X, LABELS))
        for key, mask in masks.items():
            assert (parameters[key][~mask] == 0).all()
            assert (parameters[key][mask] != 0).all()
    assert losses[-1] < losses[0]
    assert not losses[0].requires_grad


@pytest.mark.parametrize("longest", [None, 0.05, 100.0])
def test_one_step_by_hand(longest: float | None) -> None:
    """Softmax regression from zero weights: the loss is `log c`, its gradient `(1/c − onehot) xᵀ / n`."""
    module = nn.Linear(5, 3)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    parameters = dict(module.named_parameters())
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    optimiser = make_optimiser("sgd", module.parameters(), learning_rate=0.1, weight_decay=0.0)
    bits = as_bits({"weight": mask}, parameters)
    loss = training_step(SparseModule(module, bits), optimiser, X, LABELS, longest=longest)
    torch.testing.assert_close(loss, torch.tensor(3.0).log())
    error = 1 / 3 - nn.functional.one_hot(LABELS).float()
    weight, bias = mask * (error.T @ X) / 16, error.mean(0)
    norm = (weight.square().sum() + bias.square().sum()).sqrt()  # of what is kept
    assert 0.1 < norm < 1
    rate = 0.1 * 0.05 / norm if longest == 0.05 else 0.1
    torch.testing.assert_close(module.weight.detach(), -rate * weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(module.bias.detach(), -rate * bias, rtol=1e-5, atol=1e-7)


def test_processes_that_share_the_batch_take_the_step_of_one() -> None:
    """Shares of unequal size, and of unequal numbers of labels that count."""
    labels = LABELS.clone()
    labels[::5] = IGNORED

    def steps(execution: Execution) -> list[Tensor]:
        module = build()
        optimiser = make_optimiser("sgd", module.parameters(), learning_rate=0.1, weight_decay=0.0)
        network, (x, own) = SparseModule(module, {}), map(execution.group.share, (X, labels))
        losses = [training_step(network, optimiser, x, own, execution=execution) for _ in range(2)]
        return [*losses, *(p.detach() for p in network.parameters.values())]

    whole = steps(Execution())
    expected = nn.functional.cross_entropy(build()(X), labels, ignore_index=IGNORED)
    torch.testing.assert_close(whole[0], expected.detach())
    for results in in_shares(steps, size=3):
        torch.testing.assert_close(results, whole)


def test_a_batch_without_a_label_that_counts_moves_nothing() -> None:
    module = build()
    optimiser = make_optimiser("sgd", module.parameters(), learning_rate=0.1, weight_decay=0.0)
    labels = torch.full_like(LABELS, IGNORED)
    loss = training_step(SparseModule(module, {}), optimiser, X, labels)
    assert loss == 0
    for name, value in build().state_dict().items():
        assert torch.equal(module.state_dict()[name], value)

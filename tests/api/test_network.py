"""Networks of several kinds, as objects, through all functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from tests.api.objects import equal, left_alone, refusal, samples

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x), "other": x}


class Local(nn.Module):
    """With a parameter of its own, a buffer that is not saved, and a method that is no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x @ self.weight.T


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tied": Tied,
    "named": Named,
    "local": Local,
    "normalised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    "training": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train(),
}


@pytest.mark.parametrize("name", ["tied", "named", "local", "training"])
def test_through_all_functions(name: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = NETWORKS[name]()
    with left_alone(net):
        result = ntt.prune(net, X, sparsity=0.5, steps=3)
        tuned = ntt.finetune(result, (X, Y), epochs=1)
        report = ntt.evaluate(tuned, (X, Y), teacher=net)
    assert report.kept == result.report.kept
    assert type(tuned.model) is type(net)
    assert tuned.model.training == net.training
    with left_alone(net):
        tuned.save("tuned.safetensors")
        assert equal(ntt.load("tuned.safetensors", net).model.state_dict(), tuned.model.state_dict())


def test_a_tied_weight_stays_tied() -> None:
    model = ntt.prune(Tied(), X, sparsity=0.5, method="magnitude").model
    assert isinstance(model, Tied)
    assert model.first.weight is model.second.weight


def test_a_network_that_cannot_be_copied() -> None:
    net = nn.Linear(4, 3)
    net.extra = net.weight * 2  # type: ignore[assignment]
    said = refusal(ntt.NttError, ntt.prune, net, X, sparsity=0.5, method="magnitude")
    assert said.startswith("torch.nn.modules.linear.Linear: extra is the result of a computation that no pass repeats")


def test_what_is_done_to_a_result_is_not_done_to_the_network() -> None:
    net = nn.Linear(4, 3)
    result = ntt.prune(net, X, sparsity=0.5, method="magnitude")
    with left_alone(net), torch.no_grad():
        result.model.weight.zero_()  # type: ignore[union-attr, operator]
    assert result.save("a.safetensors") == Path("a.safetensors")
    assert ntt.load("a.safetensors", net).model.weight.count_nonzero() == 6  # type: ignore[union-attr, operator]


def test_what_is_done_to_the_network_later_does_not_change_a_result() -> None:
    net = nn.Linear(4, 3)
    result = ntt.prune(net, X, sparsity=0.5, method="magnitude")
    with torch.no_grad():
        net.weight.zero_()
    assert result.model.weight.count_nonzero() == 6  # type: ignore[union-attr, operator]

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntt_cli.methods.ntt import affinity as subject
from ntt_cli.methods.ntt.affinity import affinity, affinity_exponent, input_correlations, largest_affinity_exponent
from ntt_cli.networks.functional import functional_model
from tests.kernel_cases import snapshot, unchanged


@pytest.mark.parametrize(
    ("kept", "layers", "exponent"),
    [
        (0.0, 3, 0.0),
        (9.5, 3, 0.0),
        (12.5, 3, 2.5),
        (20.0, 3, 10.0),
        (400.0, 1, 10.0),
        (400.0, 4, 10.0),
        (400.0, 5, 7.5),
        (12.5, 11, 2.5),
        (400.0, 11, 3.0),
        (400.0, 31, 1.0),
        (400.0, 32, 0.0),
    ],
)
def test_exponent_by_hand(kept: float, layers: int, exponent: float) -> None:
    assert affinity_exponent(kept, most=largest_affinity_exponent(layers)) == exponent


def test_affinity_by_hand() -> None:
    correlations = torch.tensor([[1.0, 0.5, 0.0, -1.0]]).double()
    expected = [[1.0, math.exp(-1.25), math.exp(-2.5), math.exp(-5.0)]]
    torch.testing.assert_close(affinity(correlations, exponent=2.5), torch.tensor(expected).double())
    assert correlations.tolist() == [[1.0, 0.5, 0.0, -1.0]]


def by_numpy(rows: Tensor, weight: Tensor) -> Tensor:
    """Of all pairs of inputs, those with the strongest weight's; what does not vary correlates with nothing."""
    with np.errstate(invalid="ignore"):
        of_pairs = torch.from_numpy(np.corrcoef(rows.detach().double().numpy().T)).nan_to_num(0.0).fill_diagonal_(1)
    return of_pairs[weight.flatten(1).abs().argmax(dim=1)].view(weight.shape)


class Network(nn.Module):
    """A convolution with padding and stride, a layer that is used twice, one of another kind, two that make logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 5)
        self.conv = nn.Conv2d(2, 3, 3, padding=1, stride=2)
        self.one_axis = nn.Conv1d(1, 1, 3, padding=1)
        self.twice = nn.Linear(12, 12)
        self.last = nn.Linear(12, 2)

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = self.one_axis(self.conv(x).relu().flatten(1)[:, None])[:, 0]
        two = self.twice(one).relu()
        return one, two, self.twice(two).relu()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.hidden(x)[-1])
        return (out + self.embedding(x[:, 0, 0, 0].long() % 4)[:, :2]).log_softmax(dim=1)


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


def inputs(n: int = 50) -> Tensor:
    """With a large mean, and one pixel that never varies."""
    x = torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(1)) * 3 + 100
    x[:, 1, 0, 0] = 100.3
    return x


@pytest.mark.parametrize("at_once", [2**24, 1, 500], ids=["whole batches", "one by one", "some at a time"])
def test_correlations_equal_numpys(network: Network, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(subject, "NUMBERS_AT_ONCE", at_once)
    model, x = functional_model(network), inputs()
    before = snapshot(model, {}, x)
    names = [name for name, p in network.named_parameters() if p.dim() > 1]
    found = input_correlations(model.bind(), model.params, names, x.split([20, 23, 7]))
    assert set(found) == {"conv.weight", "twice.weight"}
    one, two, _ = network.hidden(x)
    rows = {
        "conv.weight": F.unfold(x, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 18),
        "twice.weight": torch.cat([one, two]),
    }
    for name, correlations in found.items():
        expected = by_numpy(rows[name], network.get_parameter(name))
        torch.testing.assert_close(correlations.double(), expected, atol=3e-5, rtol=0)
        assert not correlations.requires_grad
    assert unchanged(before, snapshot(model, {}, x))


def test_an_input_that_does_not_vary_belongs_to_nothing() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    network[0].weight.data = torch.tensor([[3.0, -1.0, 2.0], [0.1, 0.2, -0.3]])
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1 / 3
    model = functional_model(network)
    found = input_correlations(model.bind(), model.params, ["0.weight"], [x])["0.weight"]
    assert found[0].tolist() == [1, 0, 0]
    assert found[1].tolist() == [0, pytest.approx(float(np.corrcoef(x[:, 1], x[:, 2])[0, 1]), abs=1e-5), 1]


def test_few_samples_go_through_at_a_time(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, then as many as the layer with most inputs, `4 · 18` numbers a sample, lets there be."""
    monkeypatch.setattr(subject, "NUMBERS_AT_ONCE", 72 * 8 + 1)
    model, sizes = functional_model(network), []

    def apply(params: dict[str, Tensor], x: Tensor) -> Tensor:
        sizes.append(len(x))
        return model.bind()(params, x)

    input_correlations(apply, model.params, ["conv.weight", "last.weight"], inputs(21).split([3, 18]))
    assert sizes == [1, 3, 8, 8, 2]

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ntt_cli.core.functional import functional_model
from ntt_cli.core.kernel_product import answers_and_pullback


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layers = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True, **options)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {"nonlinearity": "tanh"}), (nn.RNN, {"nonlinearity": "relu"})],
)
def test_recurrent_layers_in_single_precision(kind: type[nn.RNNBase], options: dict[str, object]) -> None:
    # In double precision oneDNN, whose LSTM lacks derivatives, has no part.
    torch.manual_seed(0)
    module = Recurrent(kind, **options)
    x1, x2, probe = torch.randn(2, 5, 3), torch.randn(3, 5, 3), torch.randn(3, 2)
    enabled = torch.backends.mkldnn.enabled
    found = []
    for dtype in (torch.float32, torch.float64):
        model = functional_model(module.to(dtype))
        x1, x2, probe = x1.to(dtype), x2.to(dtype), probe.to(dtype)
        products, pullback = answers_and_pullback(model.bind(), model.params, x1, x2, probe)
        found.append([products.product, *pullback(products).values()])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4 * float(double.detach().abs().max()))
    assert torch.backends.mkldnn.enabled == enabled


def taken_apart(module: nn.Module, x1: Tensor, x2: Tensor) -> list[Tensor]:
    """The kernel's product, and its gradient by each parameter."""
    model = functional_model(module.double())
    probe = torch.randn(len(x2), 2, generator=torch.Generator().manual_seed(0)).double()
    products, pullback = answers_and_pullback(model.bind(), model.params, x1, x2, probe)
    return [products.product, *pullback(products).values()]


def assert_same(one: list[Tensor], two: list[Tensor]) -> None:
    for first, second in zip(one, two, strict=True):
        assert second.isfinite().all()
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


class EmptyPositions(nn.Module):
    """Cosines of positions, behind which a padding adds empty ones, as windows of vision transformers do."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.key = nn.Linear(3, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        keys = F.normalize(self.key(F.pad(x, (0, 0, 0, self.padding))), dim=-1)
        return self.head(torch.tanh(keys).sum(1))


def test_a_vector_of_length_zero_has_derivatives() -> None:
    """Empty positions add nothing to the logits, so that all is as without them."""
    x1, x2 = torch.randn(2, 5, 3).double(), torch.randn(3, 5, 3).double()
    found = []
    for padding in (0, 2):
        torch.manual_seed(1)
        found.append(taken_apart(EmptyPositions(padding), x1, x2))
    assert_same(*found)


class WrittenOut(nn.Module):
    """A Linear layer under weight normalisation, with its parameters in the same order."""

    def __init__(self, layer: nn.Linear, axis: int | None) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.axes = [0, 1] if axis is None else [1 - axis]
        self.bias = nn.Parameter(layer.bias.detach().clone())
        length = weight.norm(dim=self.axes, keepdim=axis is not None)
        self.g, self.v = nn.Parameter(length), nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        length = self.v.square().sum(self.axes, keepdim=len(self.axes) == 1).sqrt()
        return F.linear(torch.tanh(F.linear(x, self.g * self.v / length, self.bias)), self.v)


class Weighted(nn.Module):
    """The same with torch's."""

    def __init__(self, layer: nn.Linear, axis: int | None) -> None:
        super().__init__()
        self.layer = weight_norm(layer, dim=axis)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.layer(x)), self.layer.parametrizations.weight.original1)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weight_normalisation_is_as_written_out(axis: int | None) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    x1, x2 = torch.randn(2, 2).double(), torch.randn(3, 2).double()
    expected = taken_apart(WrittenOut(layer, axis), x1, x2)
    assert_same(expected, taken_apart(Weighted(layer, axis), x1, x2))


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_embeddings_in_bags_are_as_written_out(mode: str) -> None:
    torch.manual_seed(0)
    table, head = torch.randn(6, 3), nn.Linear(3, 2)

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Parameter(table.clone()), head

        def forward(self, tokens: Tensor) -> Tensor:
            rows = F.embedding(tokens, self.table)
            return self.head(torch.tanh(rows.mean(1) if mode == "mean" else rows.sum(1)))

    class Library(Bag):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.tanh(F.embedding_bag(tokens, self.table, mode=mode)))

    x1, x2 = torch.tensor([[1, 2, 2], [0, 5, 1]]), torch.tensor([[3, 3, 3], [2, 4, 0], [5, 1, 1]])
    assert_same(taken_apart(Bag(), x1, x2), taken_apart(Library(), x1, x2))

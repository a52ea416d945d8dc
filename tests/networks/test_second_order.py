from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from ntt_cli.kernels.product import outputs_and_pullback
from ntt_cli.networks.functional import functional_model


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
        products, pullback = outputs_and_pullback(model.bind(), model.params, x1, x2, probe)
        found.append([products.product, *pullback(products).values()])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4 * float(double.detach().abs().max()))
    assert torch.backends.mkldnn.enabled == enabled


def taken_apart(module: nn.Module, x1: Tensor, x2: Tensor) -> list[Tensor]:
    """The kernel's product, and its gradient by each parameter."""
    model = functional_model(module.double())
    probe = torch.randn(len(x2), 2, generator=torch.Generator().manual_seed(0)).double()
    products, pullback = outputs_and_pullback(model.bind(), model.params, x1, x2, probe)
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


class Standardised(nn.Module):
    """A convolution whose weights are standardised, by batch norm's own function or written out, as NFNets do."""

    def __init__(self, *, by_torch: bool) -> None:
        super().__init__()
        self.by_torch = by_torch
        self.weight, self.gain = nn.Parameter(torch.randn(4, 2, 2, 2)), nn.Parameter(torch.rand(4) + 0.5)
        self.shift, self.head = nn.Parameter(torch.randn(4)), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        if self.by_torch:
            rows = F.batch_norm(rows.unsqueeze(0), None, None, self.gain, self.shift, training=True, eps=1e-3)[0]
        else:
            centred = rows - rows.mean(1, keepdim=True)
            rows = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt()
            rows = rows * self.gain.unsqueeze(1) + self.shift.unsqueeze(1)
        return self.head(torch.tanh(F.conv2d(x, rows.view(4, 2, 2, 2))).flatten(1))


def test_standardised_weights_are_as_written_out() -> None:
    x1, x2 = torch.randn(2, 2, 3, 3).double(), torch.randn(3, 2, 3, 3).double()
    found = []
    for by_torch in (False, True):
        torch.manual_seed(1)
        found.append(taken_apart(Standardised(by_torch=by_torch), x1, x2))
    assert_same(*found)


class Attention(nn.Module):
    """Attention from some positions to others, by PyTorch's function or written out, and a head."""

    def __init__(self, attend: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self.attend, self.options = attend, options
        self.embed, self.head = nn.Linear(2, 16), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.embed(x).unflatten(-1, (2, 8)).transpose(1, 2).split([3, 3, 2], -1)
        return self.head(self.attend(query[..., :3, :], key, value, **self.options).flatten(1))


def written_out(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, scale: float = 3**-0.5
) -> Tensor:
    scores = q @ k.mT * scale
    if is_causal:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if attn_mask is None:
        attn_mask = torch.zeros(1)
    if attn_mask.dtype is not torch.bool:
        scores, attn_mask = scores + attn_mask, torch.ones(1, dtype=torch.bool)
    weights = scores.exp() * attn_mask
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-300) @ v


ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "masked": {"attn_mask": torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)},
    "a query that sees no key": {"attn_mask": torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]).bool()},
    "masked by sample": {"attn_mask": torch.tensor([1, 0, 1, 1], dtype=torch.bool).view(1, 1, 1, 4)},
    "biased": {"attn_mask": torch.arange(12.0).view(3, 4).double() / 5},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_as_written_out(name: str) -> None:
    torch.manual_seed(0)
    x1, x2 = torch.randn(2, 4, 2).double(), torch.randn(3, 4, 2).double()
    found = []
    for attend in (written_out, F.scaled_dot_product_attention):
        torch.manual_seed(1)
        found.append(taken_apart(Attention(attend, **ATTENTION[name]), x1, x2))
    assert_same(*found)


def test_queries_of_heads_that_share_their_keys_are_as_written_out() -> None:
    def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)

    def layer_density(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return written_out(q, k[:, :1], v[:, :1])

    x1, x2 = torch.randn(2, 4, 2).double(), torch.randn(3, 4, 2).double()
    found = []
    for attend in (layer_density, by_torch):
        torch.manual_seed(1)
        found.append(taken_apart(Attention(attend), x1, x2))
    assert_same(*found)


def test_keys_without_a_tangent_are_attended_to() -> None:
    """As those are that belong to no layer that learns."""
    torch.manual_seed(0)
    keys = torch.randn(4, 3).double()
    x1, x2 = torch.randn(2, 4, 2).double(), torch.randn(3, 4, 2).double()
    found = []
    for attend in (written_out, F.scaled_dot_product_attention):
        torch.manual_seed(1)
        fixed = partial(lambda attend, q, k, v: attend(q, keys.expand_as(k), v), attend)
        found.append(taken_apart(Attention(fixed), x1, x2))
    assert_same(*found)


class Mixed(nn.Module):
    """A layer on inputs, one on what came of them, which has more weights than inputs, and a head."""

    def __init__(self, first: nn.Module, second: nn.Module, features: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(features, 2)
        self.second.weight.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))).flatten(1))


class ByName(nn.Module):
    """A convolution that names its geometry."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, bias=self.bias, stride=2, padding=1)


class InPlace(nn.Conv2d):
    """A convolution whose outputs an activation takes the place of."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(F.relu_(super().forward(x)))


class Unbatched(nn.Conv2d):
    """A convolution of samples one by one, as an image without a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(Unbatched, self).forward(image) for image in x])


HEAVY = {
    "linear": (lambda: Mixed(nn.Linear(3, 4), nn.Linear(4, 6), 6), (3,)),
    "linear, no bias": (lambda: Mixed(nn.Linear(3, 4, bias=False), nn.Linear(4, 6, bias=False), 6), (3,)),
    "linear, frozen": (lambda: Mixed(nn.Linear(3, 4), nn.Linear(4, 6), 6, frozen=True), (3,)),
    "linear, positions": (lambda: Mixed(nn.Linear(3, 4), nn.Linear(4, 20), 40), (2, 3)),
    "conv1d": (lambda: Mixed(nn.Conv1d(1, 2, 3), nn.Conv1d(2, 6, 3), 6), (1, 5)),
    "conv2d": (lambda: Mixed(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 9, 2, stride=2, padding=1), 36), (1, 3, 3)),
    "conv2d, same": (lambda: Mixed(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 9, 3, padding="same"), 36), (1, 3, 3)),
    "conv2d, groups": (lambda: Mixed(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 40, 2, groups=2, bias=False), 40), (1, 3, 3)),
    "conv2d, by name": (lambda: Mixed(nn.Conv2d(1, 2, 2), ByName(), 4), (1, 3, 3)),
    "conv2d, in place": (lambda: Mixed(nn.Conv2d(1, 2, 2), InPlace(2, 9, 2, bias=False), 9), (1, 3, 3)),
    "conv2d, unbatched": (lambda: Mixed(nn.Conv2d(1, 2, 2), Unbatched(2, 9, 2), 9), (1, 3, 3)),
    "conv2d, few positions": (lambda: Mixed(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 40, 2, 2, 1, (1, 2)), 80), (1, 3, 3)),
    "conv2d, few positions, in place": (lambda: Mixed(nn.Conv2d(1, 2, 2), InPlace(2, 40, (2, 1)), 80), (1, 3, 3)),
    "conv3d": (lambda: Mixed(nn.Conv3d(1, 2, 2), nn.Conv3d(2, 9, 2), 9), (1, 3, 3, 3)),
}


@pytest.mark.parametrize("name", HEAVY)
def test_layers_of_more_weights_than_inputs_are_as_jacobians_say(name: str) -> None:
    build, shape = HEAVY[name]
    torch.manual_seed(0)
    module = build().double()
    x1, x2 = torch.randn(2, *shape).double(), torch.randn(3, *shape).double()
    probe = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    trained = {key: p.detach().requires_grad_() for key, p in module.named_parameters() if p.requires_grad}
    others = {key: p.detach() for key, p in module.named_parameters() if not p.requires_grad}

    def jacobians(x: Tensor) -> Tensor:
        every = jacrev(lambda params: functional_call(module, params | others, (x,)))(trained)
        return torch.cat([every[key].flatten(2) for key in trained], dim=2)

    product = torch.einsum("nap,mbp,mb->na", jacobians(x1), jacobians(x2), probe)
    logits = [functional_call(module, trained | others, (x,)) for x in (x1, x2)]
    scalar = sum((answer * answer.detach()).sum() for answer in (product, *logits))
    gradients = torch.autograd.grad(scalar, list(trained.values()))
    assert_same([product.detach(), *gradients], taken_apart(module, x1, x2))


class Convolutions(TorchDispatchMode):
    """The batch sizes of those made."""

    def __init__(self) -> None:
        super().__init__()
        self.forward: list[int] = []
        self.backward: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.forward.append(len(args[0]))
        if func is torch.ops.aten.convolution_backward.default:
            self.backward.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_a_heavy_weight_acts_on_values_and_tangents_at_once() -> None:
    """Of 3 + 3 samples: one backward pass, and two in forward mode, each with its backward pass."""
    module = HEAVY["conv2d"][0]().double()
    x = torch.randn(3, 1, 3, 3).double()
    with Convolutions() as made:
        taken_apart(module, x, x)
    # `J(x2)ᵀ v`; then of each half the first layer by its weights and by their tangents, for inputs have none, and
    # the second by its weights, on values and tangents at once, and by their tangents.
    assert sorted(made.forward) == sorted([3, 3] + 2 * [3, 3, 6, 3])
    # The second's by the tangents of its weights come first, so that these are let go of before there is a gradient by
    # the weights. Of the second half they are held, so that the first layer by them has no gradient.
    assert made.backward == [3, 3] + [3, 6, 3, 3] + [3, 6, 3]


def test_convolutions_at_few_positions_are_matrix_products() -> None:
    """Of 3 samples, 12 positions, and twice as many with the tangents: fewer than the second's 40 channels."""
    x = torch.randn(3, 1, 3, 3).double()
    with Convolutions() as made:
        taken_apart(Mixed(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 40, 2, stride=2, padding=1), 160), x, x)
    assert sorted(made.forward) == [3] * 5
    assert sorted(made.backward) == [3] * 4


def test_a_light_weight_acts_on_them_in_turn() -> None:
    """The second convolution's inputs are 24, its weights 16: to put values and tangents together would cost more."""
    x = torch.randn(3, 1, 3, 3).double()
    with Convolutions() as made:
        taken_apart(Mixed(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 2), 2), x, x)
    assert {*made.forward, *made.backward} == {3}


def test_convolutions_keep_to_the_layout_of_their_weights() -> None:
    module = nn.Conv2d(2, 3, 3)
    model = functional_model(nn.Sequential(module))
    x = torch.randn(4, 2, 5, 5).to(memory_format=torch.channels_last)
    out = model.returned(x)
    assert out.is_contiguous()
    assert torch.allclose(out, module(x), atol=1e-6)
    laid = {name: p.to(memory_format=torch.channels_last) if p.dim() == 4 else p for name, p in model.params.items()}
    assert replace(model, params=laid).returned(x.contiguous()).is_contiguous(memory_format=torch.channels_last)

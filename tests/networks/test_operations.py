"""Operations that networks are made of: the gradient of a kernel product against PyTorch's double backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

from ntt_cli.kernels.product import OutputsAndProduct, outputs_and_pullback
from ntt_cli.networks.functional import functional_model

Operation = Callable[[Tensor], Tensor]

WIDTH = 6


class Around(nn.Module):
    """An operation between two layers."""

    def __init__(self, before: nn.Module, operation: Operation, after: nn.Module) -> None:
        super().__init__()
        self.before, self.operation, self.after = before, operation, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operation(torch.tanh(self.before(x))).flatten(1))


def both_ways(module: nn.Module, x1: Tensor, x2: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The product and its gradient by each parameter: ours, and from a double backward pass."""
    model = functional_model(module)
    params = {name: p.requires_grad_() for name, p in model.params.items()}
    random = torch.Generator().manual_seed(0)
    apply, leaves = model.bind(), list(params.values())
    with sdpa_kernel(SDPBackend.MATH):  # the only attention that has a double backward pass
        logits1, logits2 = apply(params, x1), apply(params, x2)
        v, gamma = (torch.randn(y.shape, generator=random, dtype=y.dtype) for y in (logits2, logits1))
        u = torch.autograd.grad(logits2, leaves, v, create_graph=True)
        w = torch.autograd.grad(logits1, leaves, gamma, create_graph=True)
        inner = torch.stack([(a * b).sum() for a, b in zip(u, w, strict=True)]).sum()  # γᵀ J(x1) J(x2)ᵀ v
        theirs = torch.autograd.grad(inner, leaves, allow_unused=True)
    products, pullback = outputs_and_pullback(apply, model.params, x1, x2, v)
    assert isinstance(products, OutputsAndProduct)
    zeros1, zeros2 = torch.zeros_like(logits1), torch.zeros_like(logits2)
    ours = pullback(OutputsAndProduct(product=gamma, logits1=zeros1, logits2=zeros2))
    expected = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, theirs, strict=True)]
    return [(gamma * products.product).sum(), *ours.values()], [inner.detach(), *expected]


def assert_right(module: nn.Module, x1: Tensor, x2: Tensor) -> None:
    for ours, theirs in zip(*both_ways(module.double().eval(), x1.double(), x2.double()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


ON_VECTORS: dict[str, Operation] = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x * x.logsumexp(-1, keepdim=True),
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    **{
        name: getattr(F, name)
        for name in (
            "silu mish elu celu selu softplus hardswish leaky_relu logsigmoid softsign tanhshrink softshrink hardshrink"
            " hardtanh relu6 sigmoid"
        ).split()
    },
    "glu": lambda x: F.glu(x.repeat(1, 2)),
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "cosine_similarity": lambda x: x * F.cosine_similarity(x, x.flip(-1), dim=-1).unsqueeze(-1),
    "pairwise_distance": lambda x: x * F.pairwise_distance(x, x.flip(-1), keepdim=True),
    "std": lambda x: x / x.std(-1, keepdim=True),
    "var_mean": lambda x: (x - torch.var_mean(x, -1, keepdim=True)[1]) / (torch.var_mean(x, -1, keepdim=True)[0] + 1),
    "cumsum": lambda x: x.cumsum(-1),
    "cumprod": lambda x: x.cumprod(-1),
    "prod": lambda x: x * x.prod(-1, keepdim=True),
    "sort": lambda x: x.sort(-1).values,
    "topk": lambda x: x.topk(WIDTH, -1).values,
    "amax": lambda x: x * x.amax(-1, keepdim=True),
    "median": lambda x: x * x.median(-1, keepdim=True).values,
    "layer_norm": lambda x: F.layer_norm(x, (WIDTH,)),
    "rms_norm": lambda x: F.rms_norm(x, (WIDTH,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "batch_norm of a batch's own": lambda x: F.batch_norm(x.unsqueeze(0), None, None, training=True).squeeze(0),
    "pow": lambda x: (x.abs() + 0.1) ** 1.7,
    "erf": torch.erf,
    "atan2": lambda x: torch.atan2(x, x.flip(-1) + 2),
    "fft": lambda x: torch.fft.fft(x).abs(),
    "lerp": lambda x: torch.lerp(x, x.flip(-1), x.sigmoid()),
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(-1)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(-1)),
    "einsum": lambda x: torch.einsum("ni,nj->ni", x, x),
    "matrix_exp": lambda x: torch.linalg.matrix_exp(x.view(-1, 3, 2) @ x.view(-1, 2, 3)).flatten(1)[:, :WIDTH],
    "inverse": lambda x: (
        torch.linalg.inv(x[:, :4].view(-1, 2, 2) + 2 * torch.eye(2)).flatten(1).repeat(1, 2)[:, :WIDTH]
    ),
    "gather": lambda x: x[:, [0, 0, 1, 2, 3, 4]],
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(
        1, torch.tensor([[0, 1, 1, 2, 3, 3]]).expand(len(x), -1), x
    ),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 1]), x[:, :2]),
    "where": lambda x: torch.where(x > 0, x, x * x),
    "clamp": lambda x: x.clamp(-0.3, 0.3),
    "maximum": lambda x: torch.maximum(x, x.flip(-1)),
}


@pytest.mark.parametrize("name", ON_VECTORS)
def test_on_vectors(name: str) -> None:
    torch.manual_seed(0)
    module = Around(nn.Linear(4, WIDTH), ON_VECTORS[name], nn.Linear(WIDTH, 3))
    assert_right(module, torch.randn(2, 4), torch.randn(3, 4))


ON_IMAGES: dict[str, Operation] = {
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x, 2),
    "lp_pool": lambda x: F.lp_pool2d(x + 2, 2, 2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "antialias": lambda x: F.interpolate(x, size=3, mode="bilinear", antialias=True),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": F.instance_norm,
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "circular": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "replicated": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "unfold": lambda x: F.unfold(x, 3),
    "fold": lambda x: F.fold(F.unfold(x, 3), (6, 6), 3),
    "roll": lambda x: x.roll(1, 2),
}


@pytest.mark.parametrize("name", ON_IMAGES)
def test_on_images(name: str) -> None:
    torch.manual_seed(0)
    operation = ON_IMAGES[name]
    features = operation(torch.zeros(1, 4, 6, 6)).numel()
    module = Around(nn.Conv2d(2, 4, 3, padding=1), operation, nn.Linear(features, 3))
    assert_right(module, torch.randn(2, 2, 6, 6), torch.randn(3, 2, 6, 6))


class Cell(nn.Module):
    """A recurrent cell, once."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        y = self.cell(x)
        return y[0] if isinstance(y, tuple) else y


class Pair(nn.Module):
    """A layer of two inputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x, x.flip(-1))
        return result


class OnSequence(nn.Module):
    """A layer of sequences of three vectors, and what it says of the last."""

    def __init__(self, layer: nn.Module, inputs: int) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, x: Tensor) -> Tensor:
        sequence = torch.stack([x, 2 * x, x.flip(-1)], 1)
        y = self.layer(*[sequence] * self.inputs)
        y = y[0] if isinstance(y, tuple) else y
        result: Tensor = y[:, -1]
        return result


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "orthogonal, square": lambda: orthogonal(nn.Linear(4, 4)),
    "spectral norm": lambda: spectral_norm(nn.Linear(4, 4)),
    "bilinear": lambda: Pair(nn.Bilinear(4, 4, 4)),
    "LSTM cell": lambda: Cell(nn.LSTMCell(4, 4)),
    "GRU cell": lambda: Cell(nn.GRUCell(4, 4)),
    "LSTM": lambda: OnSequence(nn.LSTM(4, 4, batch_first=True), 1),
    "LSTM with projections": lambda: OnSequence(nn.LSTM(4, 6, proj_size=4, batch_first=True), 1),
    "GRU": lambda: OnSequence(nn.GRU(4, 4, batch_first=True), 1),
    "encoder layer": lambda: OnSequence(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
    "decoder layer": lambda: OnSequence(nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 2),
    "attention and its weights": lambda: OnSequence(nn.MultiheadAttention(4, 2, batch_first=True), 3),
    "attention with learned keys": lambda: OnSequence(
        nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True), 3
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    torch.manual_seed(0)
    module = Around(LAYERS[name](), lambda x: x, nn.Linear(4, 3))
    assert_right(module, torch.randn(2, 4), torch.randn(3, 4))


class ClassToken(nn.Module):
    """What is added to all positions, and what is put before them: of one sample, the second's gradient is a part of
    the first's."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.token = nn.Parameter(torch.randn(1, 3, 4)), nn.Parameter(torch.randn(1, 1, 4))
        self.embed, self.mix, self.head = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x.unflatten(1, (2, 2)))], 1) + self.position
        result: Tensor = self.head((y + torch.tanh(self.mix(y))).sin().mean(1))
        return result


def test_gradients_in_the_memory_of_others() -> None:
    torch.manual_seed(0)
    assert_right(ClassToken(), torch.randn(1, 4), torch.randn(1, 4))

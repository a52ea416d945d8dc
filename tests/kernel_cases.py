"""The networks that every kernel test runs on, small and in float64, one for each thing that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ntt_cli.networks.functional import FunctionalModel, functional_model


@dataclass(frozen=True)
class ModelCase:
    """A network and the shape of one of its samples; integer samples are below `tokens`."""

    name: str
    build: Callable[[], nn.Module]
    shape: Sequence[int]
    tokens: int | None = None

    def module(self, seed: int = 0) -> nn.Module:
        """In evaluation mode, every entry of its parameters and running statistics away from its initial value."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = self.build().double().eval()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
                for name, buffer in module.named_buffers():
                    if "running_mean" in name:
                        buffer.normal_()
                    elif "running_var" in name:
                        buffer.uniform_(0.5, 2.0)
        return module

    def functional(self, seed: int = 0) -> FunctionalModel:
        return functional_model(self.module(seed).train())

    def inputs(self, samples: int, seed: int = 100) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.tokens is not None:
            return torch.randint(self.tokens, (samples, *self.shape), generator=generator)
        return torch.randn(samples, *self.shape, generator=generator, dtype=torch.float64)


def random_masks(params: dict[str, Tensor], seed: int = 200) -> dict[str, Tensor]:
    """A mask for each parameter with two or more dimensions, about half of it kept."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in params.items() if p.dim() >= 2}


def jacobian(module: nn.Module, x: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
    """The oracle: `[n, c, p]` for each parameter, by one `torch.autograd.grad` a sample and output."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    rows = []
    for sample in x.split(1):
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that has a second derivative
            logits = module(sample)[0]
        rows += [
            torch.autograd.grad(
                logit, list(named.values()), retain_graph=True, create_graph=create_graph, materialize_grads=True
            )
            for logit in logits
        ]
    return {
        name: torch.stack(grads).reshape(len(x), -1, grads[0].numel())
        for name, grads in zip(named, zip(*rows, strict=True), strict=True)
    }


def brute_force_kernel(
    module: nn.Module,
    x1: Tensor,
    x2: Tensor,
    *,
    active: dict[str, Tensor] | None = None,
    create_graph: bool = False,
) -> Tensor:
    """The oracle: `K = J(x1) J(x2)ᵀ`, `[n, m, c, c]`, from whole Jacobians, pruned entries set to zero."""
    first = jacobian(module, x1, create_graph=create_graph)
    second = jacobian(module, x2, create_graph=create_graph)
    if active is not None:
        first |= {name: first[name] * mask.flatten() for name, mask in active.items()}
    return torch.stack([torch.einsum("ncp,mdp->nmcd", first[name], second[name]) for name in first]).sum(0)


class Scaled(nn.Module):
    """By a number that is trained, of no dimensions, as CLIP's logits are."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).tanh() * self.scale


class Residual(nn.Module):
    """Two uses of the same activations, and activations that work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.inner = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu_(self.stem(x))
        h = F.silu(h + F.relu_(self.inner(h)))
        return self.head(h.mean((2, 3)))


class UsedTwice(nn.Module):
    """One layer at two depths, first on three positions and then on one; and a weight with no output axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.vector = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(torch.tanh(self.layer(x)).sum(1)))
        return self.head(h) + F.linear(h, self.vector)[:, None]


class TiedEmbedding(nn.Module):
    """A weight that is an embedding and, transposed, a Linear layer: only one of the two is a layer call."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.mix(self.embedding(tokens).mean(1))), self.embedding.weight)


class EmbeddedTwice(nn.Module):
    """Rows that are taken at two places, one of them without a gradient: padding, counted from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3, padding_idx=-1)
        self.mix = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        h = torch.tanh(self.mix(self.embedding(tokens))).sum(1)
        third = F.embedding(tokens[:, 2], self.embedding.weight, padding_idx=-1)
        return self.head(h * torch.tanh(self.mix(third)))


class SequenceFirst(nn.Module):
    """Layers that see `[positions, batch, features]`, and others that see all positions in one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(2, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.1, batch_first=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.into(x.reshape(-1, 2)).reshape(len(x), -1, 4).transpose(0, 1)
        return self.head(self.encoder(tokens).mean(0))


class Attention(nn.Module):
    """Both ways of writing attention, with `LayerNorm` and a position embedding that is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3, 4))
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.qkv = nn.Linear(4, 12, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An operation that takes its parameters as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, batch_first=True)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class UnitVectors(nn.Module):
    """Attention by cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = nn.Linear(3, 8)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key = (F.normalize(part, dim=-1) for part in self.qk(x).chunk(2, -1))
        return self.head((query @ key.transpose(1, 2) @ F.normalize(x, p=1.0)).sum(1))


class Unused(nn.Module):
    """Layers not called, frozen, or called for nothing; a weight that is used without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.idle = nn.Linear(3, 4)
        self.dropped = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        self.dropped(h)
        with torch.no_grad():
            self.body(x)
        return self.head(torch.tanh(self.frozen(h @ self.dropped.weight)))


class Routed(nn.Module):
    """Each sample goes to one of two layers: what a layer sees differs from sample to sample, even in number."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x[:, 0, 0] > 0).long()
        out = x.new_zeros(len(x), 4)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero()[:, 0]
            out = out.index_add(0, rows, torch.tanh(expert(x[rows, : index + 1])).sum(1))
        return self.head(out)


MODEL_CASES = [
    ModelCase(
        "mlp", lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), [5]
    ),
    ModelCase(
        "no bias", lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.GELU(), nn.Linear(4, 3, bias=False)), [5]
    ),
    ModelCase("one output", lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)), [4]),
    ModelCase(
        "conv, all options",
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(54, 3),
        ),
        [2, 5, 6],
    ),
    ModelCase(
        "conv, wide and small",
        lambda: nn.Sequential(
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        [6, 4, 4],
    ),
    ModelCase(
        "conv, grouped and depthwise",
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, padding="same", groups=4),
            nn.Tanh(),
            nn.Conv2d(4, 4, 3, padding="same"),
            nn.Conv2d(4, 6, 2, groups=2),
            nn.Flatten(),
            nn.Linear(24, 2),
        ),
        [4, 3, 3],
    ),
    ModelCase(
        "conv, circular and transposed",
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
            nn.Tanh(),
            nn.ConvTranspose2d(2, 2, 2),
            nn.Flatten(),
            nn.Linear(32, 2),
        ),
        [1, 3, 3],
    ),
    ModelCase(
        "conv over time",
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        [2, 4],
    ),
    ModelCase(
        "batch normalisation",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 2),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(12, 4),
            nn.BatchNorm1d(4),
            nn.Tanh(),
            nn.Linear(4, 3),
        ),
        [1, 3, 3],
    ),
    ModelCase(
        "other normalisations",
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 2),
            nn.GroupNorm(3, 6),
            nn.GLU(1),
            nn.InstanceNorm1d(3, affine=True),
            nn.Tanh(),
            nn.Conv1d(3, 4, 2),
            nn.Flatten(),
            nn.LayerNorm(12),
            nn.Linear(12, 2),
        ),
        [2, 5],
    ),
    ModelCase("scaled", Scaled, [4]),
    ModelCase("residual", Residual, [1, 4, 4]),
    ModelCase("attention", Attention, [3, 4]),
    ModelCase("sequence first", SequenceFirst, [4, 2]),
    ModelCase(
        "embedding",
        lambda: nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2)),
        [4],
        tokens=6,
    ),
    ModelCase("embedded twice", EmbeddedTwice, [4], tokens=6),
    ModelCase("unit vectors", UnitVectors, [4, 3]),
    ModelCase("tied embedding", TiedEmbedding, [3], tokens=7),
    ModelCase("used twice", UsedTwice, [3, 4]),
    ModelCase("recurrent", Recurrent, [4, 3]),
    ModelCase("unused", Unused, [3]),
    ModelCase("routed", Routed, [2, 3]),
]

every_model = pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def snapshot(model: FunctionalModel, masks: dict[str, Tensor], *tensors: Tensor) -> dict[str, Tensor]:
    """Everything that a kernel function must leave alone: values, gradients, the module, the global random state."""
    named = {f"params {name}": p for name, p in model.params.items()}
    named |= {f"buffers {name}": b for name, b in model.buffers.items()}
    named |= {f"grad {name}": p.grad for name, p in model.params.items() if p.grad is not None}
    named |= {f"module {name}": value for name, value in model.module.state_dict().items()}
    named |= {f"mask {name}": mask for name, mask in masks.items()}
    named |= {f"argument {i}": tensor for i, tensor in enumerate(tensors)}
    return {name: tensor.detach().clone() for name, tensor in named.items()} | {"random state": torch.get_rng_state()}


def unchanged(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

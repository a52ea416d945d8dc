from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ntt_cli.networks.flops import Flops, count_flops, seldom_used, uses_weights_seldom, zeros_not_in_use
from ntt_cli.networks.functional import functional_model


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class CrossAttention(SelfAttention):
    """Here the three projections are views of `in_proj_weight`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x + 1, x + 2, need_weights=False)[0]


def first_kept(tensor: Tensor, n_keep: int) -> Tensor:
    return (torch.arange(tensor.numel()) < n_keep).view(tensor.shape)


CONV = 2 * 4 * (3 * 2 * 3) * (5 * 4)  # outputs · inputs of a window · positions
# Three positions and two heads of two: the projections, all pairs twice, and the output's projection.
IN, PAIRS, OUT = 2 * 3 * 4 * 12, 2 * (2 * 2 * 3 * 3 * 2), 2 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("build", "shape", "kept", "dense", "sparse"),
    [
        (lambda: nn.Linear(5, 3), [5], {"weight": 5}, 30, 10),
        (lambda: nn.Linear(5, 3), [5], {"weight": 0}, 30, 0),
        (lambda: nn.Linear(5, 3), [7, 5], {"weight": 15}, 7 * 30, 7 * 30),
        (lambda: nn.Linear(5, 3), [5], {"weight": 5, "bias": 0}, 30, 10),
        (lambda: nn.Conv2d(3, 4, (2, 3)), [3, 6, 6], {"weight": 18, "bias": 1}, CONV, CONV // 4),
        (lambda: nn.Linear(5, 3, bias=False), [5], {}, 30, 30),
        (lambda: nn.Conv2d(3, 4, (2, 3)), [3, 6, 6], {"weight": 18}, CONV, CONV // 4),
        (lambda: nn.Conv2d(4, 4, 3, groups=4), [4, 3, 3], {"weight": 9}, 2 * 4 * 9, 2 * 9),
        (lambda: nn.Conv1d(2, 3, 2), [2, 5], {"weight": 6}, 2 * 3 * 4 * 4, 3 * 4 * 4),
        (
            lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
            [5],
            {"0.weight": 10},
            40 + 16,
            20 + 16,
        ),
        (SelfAttention, [3, 4], {"attention.in_proj_weight": 24}, IN + PAIRS + OUT, IN // 2 + PAIRS + OUT),
        (CrossAttention, [3, 4], {"attention.in_proj_weight": 24}, IN + PAIRS + OUT, IN // 2 + PAIRS + OUT),
        (CrossAttention, [3, 4], {"attention.out_proj.weight": 4}, IN + PAIRS + OUT, IN + PAIRS + OUT // 4),
    ],
    ids=[
        "linear",
        "nothing kept",
        "positions",
        "bias, linear",
        "bias, conv",
        "no masks",
        "conv",
        "depthwise conv",
        "conv over time",
        "two layers",
        "attention, packed",
        "attention, views",
        "attention, output",
    ],
)
def test_by_hand(
    build: Callable[[], nn.Module], shape: Sequence[int], kept: dict[str, int], dense: int, sparse: int
) -> None:
    model = functional_model(build())
    masks = {name: first_kept(model.params[name], n_keep) for name, n_keep in kept.items()}
    for samples in (1, 4):
        x = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))
        assert count_flops(model.bind(), model.params, x, masks) == Flops(dense=dense, sparse=sparse)


@pytest.mark.parametrize(("positions", "seldom"), [(1, True), (8, True), (9, False)])
def test_weights_are_used_seldom_up_to_eight_times_a_sample(positions: int, seldom: bool) -> None:
    model = functional_model(nn.Linear(5, 3, bias=False))
    assert uses_weights_seldom(model.bind(), model.params, torch.zeros(2, positions, 5)) == seldom


def test_uses_of_weights_are_averaged_over_them() -> None:
    """A convolution's 4 weights at 9 positions each, and a layer of 9 * 10 weights at one: 1.3 times on average."""
    model = functional_model(nn.Sequential(nn.Conv2d(1, 1, 2, bias=False), nn.Flatten(), nn.Linear(9, 10, bias=False)))
    assert uses_weights_seldom(model.bind(), model.params, torch.zeros(1, 1, 4, 4))


def test_weights_that_are_used_seldom_by_hand() -> None:
    """Two convolutions of 9 and 4 positions, a layer used 3 times, one of 9 uses, one of none."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.often, self.seldom = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 2)
            self.thrice, self.nine, self.never = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.seldom(self.often(x)).flatten(1)
            for layer in [self.thrice] * 3 + [self.nine] * 9:
                x = layer(x)
            return x

    model = functional_model(Network())
    for samples in (1, 5):
        assert seldom_used(model.bind(), model.params, torch.zeros(samples, 1, 4, 4)) == {
            "seldom.weight",
            "thrice.weight",
        }


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-6), self.bias)


class Exponentiated(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.exp(), self.bias)


class Scaled(nn.Linear):
    """Computed from the weights, and zero where they are."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.weight * 0.5).contiguous() / (1 + self.bias[:, None] ** 2), self.bias)


class ByInputs(nn.Linear):
    """What depends on the inputs is no weight, whatever its zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight) @ (self.weight @ x.mT).relu()


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.a @ self.b + 1)


@pytest.mark.parametrize(
    ("build", "shape", "filled"),
    [
        (lambda: Standardised(3, 8, 3), [3, 5, 5], ("weight",)),
        (lambda: Exponentiated(5, 8), [5], ("weight",)),
        (LowRank, [6], ("a", "b")),
        (lambda: nn.Linear(5, 8), [5], ()),
        (lambda: Scaled(5, 8), [5], ()),
        (lambda: ByInputs(5, 8), [5, 5], ()),
        (lambda: weight_norm(nn.Linear(5, 8)), [5], ()),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Standardised(4, 8, 3)), [3, 8, 8], ("1.weight",)),
        (SelfAttention, [3, 4], ()),
        (CrossAttention, [3, 4], ()),
    ],
    ids=["standardised", "exp", "low rank", "linear", "scaled", "inputs", "weight norm", "both", "packed", "views"],
)
def test_zeros_that_are_none_where_they_are_used(
    build: Callable[[], nn.Module], shape: Sequence[int], filled: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    model = functional_model(build())
    names = [name for name, p in model.params.items() if p.ndim > 1 and name != "parametrizations.weight.original0"]
    x = torch.randn(1, *shape)
    generator = torch.Generator().manual_seed(0)
    assert zeros_not_in_use(model.bind(), model.params, x, names, generator=generator) == filled


@pytest.mark.parametrize(
    ("layer", "shape", "name", "sparse"),
    [
        (Standardised(4, 4, 1), [4, 1, 1], "weight", 32),
        (Exponentiated(4, 4), [4], "weight", 32),
        (Scaled(4, 4), [4], "weight", 8),
        (weight_norm(nn.Linear(4, 4)), [4], "parametrizations.weight.original1", 8),
    ],
    ids=["standardised", "exp", "scaled", "weight norm"],
)
def test_products_count_by_what_they_are_given(layer: nn.Module, shape: list[int], name: str, sparse: int) -> None:
    """A quarter of the entries is kept."""
    model = functional_model(layer)
    masks = {name: torch.eye(4).bool().view(model.params[name].shape)}
    x = torch.ones(1, *shape)
    assert count_flops(model.bind(), model.params, x, masks) == Flops(dense=32, sparse=sparse)

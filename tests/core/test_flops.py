from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.core.flops import Flops, count_flops, seldom_used, uses_weights_seldom
from ntt_cli.core.functional import functional_model


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

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_cli.masks.allocation import (
    Counts,
    Shapes,
    allocate,
    allocate_erk,
    allocate_global,
    allocate_global_with_shares,
    allocate_layerwise,
    layer_sizes,
    total_to_keep,
)
from ntt_cli.masks.masks import choose_masks

LENET_300_100 = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}

SHAPES = st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=4), min_size=1, max_size=8).map(
    lambda shapes: {f"layer{index}": tuple(shape) for index, shape in enumerate(shapes)}
)
DENSITIES = st.floats(0, 1, exclude_min=True)
by_shape = pytest.mark.parametrize("allocator", [allocate_erk, allocate_layerwise])


@pytest.mark.parametrize(
    ("shapes", "density", "expected"),
    [
        # 7986 weights in proportion to 1084 : 400 : 110 are 5430.88, 2004.02 and 551.10.
        (LENET_300_100, 0.03, [5431, 2004, 551]),
        # 26620 would give fc3 1837 of 1000; the other 25620 as 1084 : 400 are 18714.34 and 6905.66.
        (LENET_300_100, 0.1, [18714, 6906, 1000]),
        # 152 as 8+4+3+3 : 10+32 are 45.6 and 106.4.
        ({"conv": (8, 4, 3, 3), "fc": (10, 32)}, 0.25, [46, 106]),
        ({"equal": (4, 4), "twin": (4, 4)}, 5 / 32, [3, 2]),
        # 7 as 5 : 2 : … : 2 give the convolution 2.06 of 2, but then only 5 are left for six layers.
        ({"conv": (2, 1, 1, 1)} | {f"fc{index}": (1, 1) for index in range(6)}, 7 / 8, [1] * 7),
        (LENET_300_100, 1.0, [235200, 30000, 1000]),
        (LENET_300_100, 3 / 266200, [1, 1, 1]),
    ],
    ids=["proportional", "saturated", "convolution", "tie", "full and starved", "dense", "one each"],
)
def test_erk_by_hand(shapes: Shapes, density: float, expected: list[int]) -> None:
    assert list(allocate_erk(shapes, density=density).values()) == expected


@pytest.mark.parametrize(
    ("shapes", "density", "expected"),
    [
        (LENET_300_100, 0.03, [7056, 900, 30]),
        ({"a": (100, 10), "b": (2, 1)}, 0.01, [9, 1]),  # 9.98 and 0.02
        ({"a": (3, 5), "b": (3, 5), "c": (3, 5)}, 10 / 45, [4, 3, 3]),
    ],
)
def test_layerwise_by_hand(shapes: Shapes, density: float, expected: list[int]) -> None:
    assert list(allocate_layerwise(shapes, density=density).values()) == expected


def test_global_by_hand() -> None:
    scores = {"a": torch.tensor([[9.0, 8.0], [7.0, 1.0]]), "b": torch.tensor([[0.5, 0.25]]), "c": torch.tensor([[7.0]])}
    assert allocate_global(scores, density=4 / 7) == {"a": 2, "b": 1, "c": 1}
    assert allocate_global(scores, density=5 / 7) == {"a": 3, "b": 1, "c": 1}


@by_shape
@settings(deadline=None, max_examples=200)
@given(shapes=SHAPES, density=DENSITIES)
def test_every_count_is_the_scaled_ratio_within_its_bounds(
    allocator: Callable[..., Counts], shapes: Shapes, density: float
) -> None:
    """The oracle: bisect for the scale `λ` at which `Σ clip(λ · ratio, 1, size)` is the number to keep."""
    sizes = layer_sizes(shapes)
    n_keep = round(density * sum(sizes.values()))
    if n_keep < len(sizes):
        with pytest.raises(ValueError, match=f"{n_keep} weights cannot be spread over {len(sizes)} layers"):
            allocator(shapes, density=density)
        return
    counts = allocator(shapes, density=density)
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == n_keep
    ratios = {name: sum(shape) if allocator is allocate_erk else math.prod(shape) for name, shape in shapes.items()}
    quotas = clipped_quotas(ratios, sizes, n_keep)
    for name, count in counts.items():
        assert 1 <= count <= sizes[name]
        assert abs(count - quotas[name]) < 1 + 1e-6


def clipped_quotas(ratios: Mapping[str, int], sizes: Mapping[str, int], n_keep: int) -> dict[str, float]:
    low, high = 0.0, float(max(sizes.values()))
    for _ in range(80):
        scale = (low + high) / 2
        quotas = {name: min(max(scale * ratio, 1.0), sizes[name]) for name, ratio in ratios.items()}
        low, high = (scale, high) if sum(quotas.values()) < n_keep else (low, scale)
    return quotas


@settings(deadline=None, max_examples=200)
@given(
    layers=st.lists(
        st.lists(st.integers(0, 5).map(float) | st.floats(0, 9), min_size=1, max_size=9), min_size=1, max_size=6
    ),
    density=DENSITIES,
)
def test_global_equals_sorting_all_scores(layers: list[list[float]], density: float) -> None:
    """The oracle: the best of each layer, then the best of the rest, ties by layer."""
    scores = {f"layer{index}": torch.tensor(layer, dtype=torch.float64) for index, layer in enumerate(layers)}
    n_keep = round(density * sum(map(len, layers)))
    if n_keep < len(layers):
        with pytest.raises(ValueError, match="cannot be spread"):
            allocate_global(scores, density=density)
        return
    ranked = [sorted(layer, reverse=True) for layer in layers]
    rest = sorted((-score, index) for index, layer in enumerate(ranked) for score in layer[1:])
    expected = [1] * len(layers)
    for _, index in rest[: n_keep - len(layers)]:
        expected[index] += 1
    assert list(allocate_global(scores, density=density).values()) == expected


def test_shares_by_hand() -> None:
    """Of 20 weights ERK keeps 9, 8 and 3, in proportion to 11, 11 and 4; by score the first layer has nearly all."""
    scores = {"a": torch.arange(30.0).view(5, 6) + 100, "b": torch.arange(30.0).view(6, 5) + 50, "c": torch.ones(2, 2)}
    none: dict[str, float] = {}
    counts = {
        share: list(allocate_global_with_shares(scores, density=20 / 64, layer_density=none, share=share).values())
        for share in (0.0, 0.12, 0.25, 0.5, 1.0)
    }
    assert counts == {0: [18, 1, 1], 0.12: [18, 1, 1], 0.25: [17, 2, 1], 0.5: [15, 4, 1], 1: [9, 8, 3]}
    layer_density = allocate_global_with_shares(scores, density=20 / 64, layer_density={"b": 1 / 30}, share=0.5)
    assert layer_density == {"a": 17, "b": 1, "c": 2}


@settings(deadline=None, max_examples=200)
@given(shapes=SHAPES, density=DENSITIES, share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_every_layer_has_its_share(shapes: Shapes, density: float, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = layer_sizes(shapes)
    if round(density * sum(sizes.values())) < len(sizes):
        return
    scores = {
        name: torch.rand(tuple(shape), generator=generator) * (torch.randn(1, generator=generator) * 3).exp()
        for name, shape in shapes.items()
    }
    least = {name: int(share * count) for name, count in allocate_erk(shapes, density=density).items()}
    counts = allocate_global_with_shares(scores, density=density, layer_density={}, share=share)
    assert sum(counts.values()) == total_to_keep(sizes, density=density)
    assert all(max(1, least[name]) <= counts[name] <= sizes[name] for name in sizes)
    freely = allocate_global(scores, density=density)
    if all(freely[name] >= least[name] for name in sizes):
        assert counts == freely


def test_by_name() -> None:
    scores = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(0)) for name, shape in LENET_300_100.items()
    }
    assert allocate("erk", scores, density=0.03) == allocate_erk(LENET_300_100, density=0.03)
    assert allocate("layerwise", scores, density=0.03) == allocate_layerwise(LENET_300_100, density=0.03)
    assert allocate("global", scores, density=0.03) == allocate_global(scores, density=0.03)


@pytest.mark.parametrize(("density", "expected"), [(1.0, 1000), (0.0104, 10), (0.0106, 11), (0.002, 2)])
def test_total_is_the_rounded_product(density: float, expected: int) -> None:
    assert total_to_keep({"a": 900, "b": 100}, density=density) == expected


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (0.0, "density must be above 0 and at most 1, got 0.0"),
        (-0.5, "above 0"),
        (1.01, "at most 1, got 1.01"),
        (float("nan"), "got nan"),
        (0.001, "1 weights cannot be spread over 2 layers with at least one in each"),
    ],
)
def test_impossible_densities_are_refused(density: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        total_to_keep({"a": 900, "b": 100}, density=density)


def test_scores_of_two_precisions_are_compared_in_the_wider() -> None:
    close = torch.tensor([9.0, 1.0001, 1.0002, 1.0003])
    counts = allocate_global({"a": torch.tensor([9.0, 1.0], dtype=torch.float16), "b": close}, density=3 / 6)
    assert counts == {"a": 1, "b": 2}


@pytest.mark.parametrize("allocation", ["erk", "layerwise", "global"])
@given(shapes=SHAPES, density=DENSITIES)
@settings(max_examples=30)
def test_every_slice_can_keep_an_entry(allocation: str, shapes: Shapes, density: float) -> None:
    """The counts are exact all the same."""
    slices = {name: index % 2 for index, name in enumerate(shapes)}
    least = {name: shape[slices[name]] for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(tuple(shape), generator=generator) for name, shape in shapes.items()}
    total = round(density * sum(layer_sizes(shapes).values()))
    if total < sum(least.values()):
        with pytest.raises(ValueError, match="cannot be spread|density"):
            allocate(allocation, scores, density=density, slices=slices)
        return
    counts = allocate(allocation, scores, density=density, slices=slices)
    assert sum(counts.values()) == total
    assert all(least[name] <= counts[name] <= scores[name].numel() for name in shapes)
    masks = choose_masks(scores, counts, slices=slices)
    for name, mask in masks.items():
        assert int(mask.sum()) == counts[name]
        assert mask.movedim(slices[name], 0).flatten(1).any(1).all()

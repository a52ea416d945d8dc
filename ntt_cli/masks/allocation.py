"""Allocations: how many weights each layer keeps. A density over all layers becomes an exact count for each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import reduce

import torch
from torch import Tensor

from ntt_cli.masks.masks import Slices, best_of_slices, keep_top, least_in

Shapes = Mapping[str, Sequence[int]]
Counts = dict[str, int]
SlicesByName = Mapping[str, Slices]
"""By weight, its slices that must not be empty. Weights that are not named keep at least one entry in all."""

Allocate = Callable[..., Counts]
"""An allocation as a function: `f(scores, density=…, slices=…)` gives the count of each layer."""


def least_of(shapes: Shapes, slices: SlicesByName | None) -> Counts:
    """The smallest count of each layer: one weight, or what its slices keep."""
    return {name: least_in(shape, slices[name]) if slices and name in slices else 1 for name, shape in shapes.items()}


def total_to_keep(sizes: Mapping[str, int], *, density: float, least: Mapping[str, int] | None = None) -> int:
    """`round(density · prunable)`, the number of weights kept over all layers.

    Raises:
        ValueError: if `density` is outside (0, 1], or keeps fewer weights than the layers' smallest counts `least`.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density}")
    n_keep = round(density * sum(sizes.values()))
    needed = sum(least.values()) if least else len(sizes)
    if n_keep < needed:
        each = "" if needed == len(sizes) else f", or {needed} with one in each unit that must not be empty"
        raise ValueError(f"{n_keep} weights cannot be spread over {len(sizes)} layers with at least one in each{each}")
    return n_keep


def allocate_layerwise(shapes: Shapes, *, density: float, slices: SlicesByName | None = None) -> Counts:
    """The same density in every layer, as in Liu & Zenke 2020."""
    return _apportion(shapes, dict.fromkeys(shapes, 1.0), density, slices)


def allocate_erk(shapes: Shapes, *, density: float, slices: SlicesByName | None = None) -> Counts:
    """Erdős–Rényi–Kernel: density proportional to `(n_out + n_in + Σ kernel) / (n_out · n_in · Π kernel)`.

    Layers that would exceed density 1 stay dense and the others share the rest. Evci et al. 2020, arXiv 1911.11134.
    """
    raw = {name: sum(shapes[name]) / size for name, size in layer_sizes(shapes).items()}
    return _apportion(shapes, raw, density, slices)


def allocate_global(scores: Mapping[str, Tensor], *, density: float, slices: SlicesByName | None = None) -> Counts:
    """The counts of the highest scores over all layers together; each layer keeps at least one weight."""
    shapes, along = _shapes_of(scores), slices or {}
    sizes, least = layer_sizes(shapes), least_of(shapes, slices)
    n_keep = total_to_keep(sizes, density=density, least=least)
    # The best weight of each layer, or of each slice, is kept first. All others compete for what is left.
    others = [size - least[name] for name, size in sizes.items()]
    widest = reduce(torch.promote_types, (score.dtype for score in scores.values()))
    rest = next(iter(scores.values())).new_empty(sum(others), dtype=widest)
    for part, (name, score) in zip(rest.split(others), scores.items(), strict=True):
        if name in along:
            part[:] = score[~best_of_slices(score, along[name])]
        else:
            flat, best = score.flatten(), int(score.argmax())
            part[:best], part[best:] = flat[:best], flat[best + 1 :]
    chosen = keep_top(rest, n_keep=n_keep - sum(least.values())).split(others)
    return {name: least[name] + int(own.sum()) for name, own in zip(sizes, chosen, strict=True)}


def allocate(
    allocation: str | Allocate,
    scores: Mapping[str, Tensor],
    *,
    density: float,
    layer_density: Mapping[str, float] | None = None,
    slices: SlicesByName | None = None,
) -> Counts:
    """The counts of an allocation: `erk`, `layerwise` or `global`, or a function.

    Args:
        allocation: the name, or `f(scores, density=…, slices=…)`, which keeps `round(density · size)` weights in all.
        scores: by weight; only `global` looks at more than their shapes.
        density: over all weights together.
        layer_density: densities of single weights; the allocation divides what they leave among the others. If that is
            nothing or everything, the total may be missed, by one for each weight here: their counts are rounded.
        slices: the weights in which every slice keeps an entry.

    Raises:
        ValueError: if `density` cannot be met, over all weights or over those that `layer_density` leaves.
    """
    shapes = _shapes_of(scores)
    if layer_density:
        sizes, least = layer_sizes(shapes), least_of(shapes, slices)
        fixed = {name: min(max(least[name], round(d * sizes[name])), sizes[name]) for name, d in layer_density.items()}
        others = {name: score for name, score in scores.items() if name not in fixed}
        left = total_to_keep(sizes, density=density, least=least) - sum(fixed.values())
        room, needed = sum(sizes[name] for name in others), sum(least[name] for name in others)
        if not needed - len(fixed) <= left <= room + len(fixed):
            raise ValueError(f"the layers set by hand leave {left} weights to keep, of {room} in {len(others)} others")
        left = min(max(left, needed), room)
        counts = fixed | (allocate(allocation, others, density=left / room, slices=slices) if others else {})
        return {name: counts[name] for name in scores}
    if not isinstance(allocation, str):
        return allocation(scores, density=density, slices=slices)
    if allocation == "global":
        return allocate_global(scores, density=density, slices=slices)
    by_shape = {"erk": allocate_erk, "layerwise": allocate_layerwise}[allocation]
    return by_shape(shapes, density=density, slices=slices)


def allocate_global_with_shares(
    scores: Mapping[str, Tensor],
    *,
    density: float,
    layer_density: Mapping[str, float],
    share: float,
    slices: SlicesByName | None = None,
) -> Counts:
    """As `global`, but each layer keeps at least this share of what ERK would keep, rounded down.

    Weights added to layers below this minimum are taken from the others, lowest scores first. It does not apply to
    weights with a density of their own. The arguments, and errors, are those of `allocate`.
    """
    erk = allocate("erk", scores, density=density, layer_density=layer_density, slices=slices)
    fixed = dict(layer_density)
    while True:
        counts = allocate("global", scores, density=density, layer_density=fixed, slices=slices)
        short = [name for name in scores if name not in fixed and counts[name] < int(share * erk[name])]
        if not short:
            return counts
        fixed |= {name: int(share * erk[name]) / scores[name].numel() for name in short}


def _shapes_of(scores: Mapping[str, Tensor]) -> Shapes:
    return {name: score.shape for name, score in scores.items()}


def layer_sizes(shapes: Shapes) -> dict[str, int]:
    """The number of weights in each layer."""
    return {name: torch.Size(shape).numel() for name, shape in shapes.items()}


def _apportion(
    shapes: Shapes, density_ratio: Mapping[str, float], density: float, slices: SlicesByName | None
) -> Counts:
    """Divide the weights to keep by `density_ratio · size`; each count lies between the layer's least and its size.

    Counts are rounded by largest remainder, ties by layer order (Hamilton's method), so that their sum is exact.
    """
    sizes, least = layer_sizes(shapes), least_of(shapes, slices)
    n_keep = total_to_keep(sizes, density=density, least=least)
    fixed: Counts = {}
    free = list(sizes)
    while True:
        # Exact rationals: the counts must not depend on the order of a floating-point sum.
        weight = {name: Fraction(density_ratio[name]) * sizes[name] for name in free}
        left = n_keep - sum(fixed.values())
        scale = Fraction(left) / sum(weight.values()) if free else Fraction(0)
        quota = {name: scale * weight[name] for name in free}
        full = {name: sizes[name] for name in free if quota[name] > sizes[name]}
        starved = {name: least[name] for name in free if quota[name] < least[name]}
        if not full and not starved:
            break
        # A full layer's quota is above its size: the surplus goes to others. A starved layer's is below its least: it
        # takes from others. If the surplus is the larger, the final scale is above this one: layers that are full now
        # stay full, and can be fixed. Otherwise it is below, and starved layers can be fixed.
        bound = full if sum(quota[name] for name in full | starved) > sum((full | starved).values()) else starved
        fixed |= bound
        free = [name for name in free if name not in bound]
    counts = fixed | {name: int(quota[name]) for name in free}
    by_remainder = sorted(free, key=lambda name: counts[name] - quota[name])
    for name in by_remainder[: n_keep - sum(counts.values())]:
        counts[name] += 1
    return {name: counts[name] for name in sizes}

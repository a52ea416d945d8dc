"""Boolean masks, `True` = kept: made by exact counts, applied to weights, counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from ntt_cli.config.pattern import Groups
from ntt_cli.tensors import Masks, Params

Slices = int | Groups
"""Parts of a weight of which each must keep entries: every slice along an axis one, or every group of a pattern `N`."""

PART = 2**20
"""The number of scores that `keep_top` searches for ties at a time."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_top(scores: Float[Tensor, "*shape"], *, n_keep: int) -> Bool[Tensor, "*shape"]:
    """Keep the `n_keep` highest scores, ties by lowest index, so that the count is exact.

    Raises:
        ValueError: if a score is NaN or `n_keep` is outside [0, size].
    """
    if not 0 <= n_keep <= scores.numel():
        raise ValueError(f"cannot keep {n_keep} of {scores.numel()} weights")
    if scores.isnan().any():
        raise ValueError("a score is NaN")
    flat = scores.flatten()
    if n_keep == 0:
        return scores.new_zeros(scores.shape, dtype=torch.bool)
    lowest = _kth_smallest(flat, flat.numel() - n_keep)
    mask = flat > lowest
    missing = n_keep - _count(mask)
    # Part by part: the indices of all ties could take twice the memory of the scores, as where most scores are zero.
    for part, kept in zip(flat.split(PART), mask.split(PART), strict=True):
        if missing == 0:
            break
        ties = (part == lowest).nonzero().flatten()[:missing]
        kept[ties] = True
        missing -= len(ties)
    return mask.view(scores.shape)


def _kth_smallest(values: Float[Tensor, " n"], k: int) -> Float[Tensor, ""]:
    """The value at index `k` in ascending order."""
    # Selection is several times faster than sorting, and a method of 100 rounds does little else.
    if values.device.type == "cuda":
        return values.kthvalue(k + 1).values
    # As fast as torch's, which also returns indices; these take twice the memory of the values.
    on_cpu = values.detach().to("cpu", torch.float32 if values.dtype == torch.bfloat16 else values.dtype, copy=True)
    on_cpu.numpy().partition(k)  # in place, on the tensor's own memory; numpy has no bfloat16
    return on_cpu[k].to(values)


def choose_masks(
    scores: Mapping[str, Tensor], counts: Mapping[str, int], *, slices: Mapping[str, Slices] | None = None
) -> Masks:
    """Each layer's `counts[name]` highest scores.

    Args:
        scores: by weight.
        counts: by weight.
        slices: by weight, the slices of which each keeps its best; weights without them keep any entries.
    """
    along = slices or {}
    return {
        name: keep_top_of_slices(score, n_keep=counts[name], slices=along[name])
        if name in along
        else keep_top(score, n_keep=counts[name])
        for name, score in scores.items()
    }


def keep_top_of_slices(scores: Float[Tensor, "*shape"], *, n_keep: int, slices: Slices) -> Bool[Tensor, "*shape"]:
    """Keep the best of each slice and the highest of all others, `n_keep` in all.

    With a pattern, the smallest `n_keep` possible is that of the pattern. While a density falls, it is larger, and
    weights beyond the pattern are kept where scores are highest.

    Raises:
        ValueError: if the slices must keep more than `n_keep`, or a score is NaN.
    """
    least = least_in(scores.shape, slices)
    if n_keep < least:
        raise ValueError(f"cannot keep {n_keep} weights where slices keep {least}")
    if scores.isnan().any():
        raise ValueError("a score is NaN")
    best = best_of_slices(scores, slices)
    others = keep_top(scores[~best], n_keep=n_keep - least)
    return best.masked_scatter(~best, others)


def least_in(shape: Sequence[int], slices: Slices) -> int:
    """The number of entries that the slices of a weight of this shape keep at least."""
    return math.prod(shape) // slices.of * slices.keep if isinstance(slices, Groups) else shape[slices]


def best_of_slices(scores: Float[Tensor, "*shape"], slices: Slices) -> Bool[Tensor, "*shape"]:
    """A mask of the highest score in each slice, or of the `keep` highest in each group, ties by lowest index."""
    if isinstance(slices, Groups):
        return _best_of_groups(scores, slices)
    axis = slices
    moved = scores.movedim(axis, 0)
    best = moved.new_zeros(moved.shape, dtype=torch.bool).flatten(1)
    best.scatter_(1, moved.flatten(1).argmax(dim=1, keepdim=True), True)
    return best.view(moved.shape).movedim(0, axis).contiguous()


def _best_of_groups(scores: Float[Tensor, "*shape"], groups: Groups) -> Bool[Tensor, "*shape"]:
    divided = scores.movedim(groups.axis, -1).unflatten(-1, (-1, groups.of))
    highest = divided.argsort(dim=-1, descending=True, stable=True)[..., : groups.keep]
    best = torch.zeros_like(divided, dtype=torch.bool).scatter_(-1, highest, True)
    return best.flatten(-2).movedim(-1, groups.axis).contiguous()


def as_bits(masks: Masks, params: Mapping[str, Tensor]) -> Masks:
    """The masks as 8-bit integers in their parameters' memory layout: all bits set (−1) where kept, else none (0).

    A bitwise "and" applies them: several times as fast as bools, in plain and in compiled steps. Float masks are as
    fast but need four times the memory.
    """
    return {name: torch.empty_like(params[name], dtype=torch.int8).copy_(mask).neg_() for name, mask in masks.items()}


def apply_masks(params: Params, masks: Masks) -> Params:
    """`m ⊙ w`: new parameters with pruned entries zero; the gradient of a pruned entry is zero.

    Masks are bools, or bits from `as_bits`. With bits, the result has no graph.
    """
    return {name: masked(p, masks[name]) if name in masks else p for name, p in params.items()}


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`m ⊙ w` of one parameter, as in `apply_masks`."""
    if mask.dtype is torch.bool:
        return torch.where(mask, values, 0)
    return (_bits(values) & mask).view(values.dtype)


def zero_pruned(values: Tensor, mask: Int8[Tensor, "*shape"]) -> None:
    """Set pruned entries to zero, in place, by a mask from `as_bits`."""
    _bits(values).bitwise_and_(mask)


def _bits(values: Tensor) -> Tensor:
    """The memory of the values as integers of the same width; −1 and 0 of 8 bits extend to any width."""
    return values.detach().view(_INTEGERS[values.itemsize])


def without_biases(masks: Masks) -> Masks:
    """The masks of weights. Files from elsewhere may also hold masks of vectors, such as biases."""
    return {name: mask for name, mask in masks.items() if mask.ndim > 1}


def layer_densities(masks: Masks) -> dict[str, float]:
    """Kept fraction of each layer."""
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def count_kept(masks: Masks) -> int:
    """Kept weights over all layers."""
    return sum(map(_count, masks.values()))


def count_changes(before: Masks, after: Masks) -> int:
    """The number of entries that differ between two sets of masks."""
    return sum(_count(before[name] ^ mask) for name, mask in after.items())


def _count(mask: Bool[Tensor, "*shape"]) -> int:
    return int(mask.count_nonzero())  # `sum` would first convert every entry to 8 bytes

"""Boolean masks, `True` = kept, with exact counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from ntt_cli.tensors import Masks, Params

PART = 2**20
"""Scores that are looked at together."""

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
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    lowest = _in_order(flat, flat.numel() - n_keep)
    mask = flat > lowest
    missing = n_keep - _count(mask)
    # Where most scores are zero, their indices all at once would take twice the memory of the scores.
    for part, kept in zip(flat.split(PART), mask.split(PART), strict=True):
        if missing == 0:
            break
        ties = (part == lowest).nonzero().flatten()[:missing]
        kept[ties] = True
        missing -= len(ties)
    return mask.view(scores.shape)


def _in_order(values: Float[Tensor, " n"], k: int) -> Float[Tensor, ""]:
    """The value with `k` smaller ones, if they were sorted."""
    # Selection is several times faster than sorting, and a method of 100 rounds does little else.
    if values.device.type == "cuda":
        return values.kthvalue(k + 1).values
    # As fast as torch's, without the number of each value, which takes twice the memory of the values.
    there = values.detach().to("cpu", torch.float32 if values.dtype == torch.bfloat16 else values.dtype, copy=True)
    there.numpy().partition(k)  # in place, on the tensor's own memory; numpy has no bfloat16
    return there[k].to(values)


def choose_masks(
    scores: Mapping[str, Tensor], counts: Mapping[str, int], *, slices: Mapping[str, int] | None = None
) -> Masks:
    """Each layer's `counts[name]` highest scores.

    Args:
        scores: by weight.
        counts: by weight.
        slices: of weights of which every slice along this axis is to keep its best entry, the axis.
    """
    along = slices or {}
    return {
        name: keep_top_of_slices(score, n_keep=counts[name], axis=along[name])
        if name in along
        else keep_top(score, n_keep=counts[name])
        for name, score in scores.items()
    }


def keep_top_of_slices(scores: Float[Tensor, "*shape"], *, n_keep: int, axis: int) -> Bool[Tensor, "*shape"]:
    """The best entry of each slice along `axis`, and then the highest others, `n_keep` together.

    Raises:
        ValueError: if there are more slices than that.
    """
    if n_keep < scores.shape[axis]:
        raise ValueError(f"cannot keep {n_keep} weights in {scores.shape[axis]} slices")
    best = best_of_slices(scores, axis)
    others = keep_top(scores[~best], n_keep=n_keep - scores.shape[axis])
    return best.masked_scatter(~best, others)


def best_of_slices(scores: Float[Tensor, "*shape"], axis: int) -> Bool[Tensor, "*shape"]:
    """Where the highest score of each slice along `axis` is, of equal ones the first."""
    moved = scores.movedim(axis, 0)
    best = torch.zeros(moved.shape, dtype=torch.bool, device=scores.device).flatten(1)
    best.scatter_(1, moved.flatten(1).argmax(dim=1, keepdim=True), True)
    return best.view(moved.shape).movedim(0, axis).contiguous()


def as_bits(masks: Masks, params: Mapping[str, Tensor]) -> Masks:
    """The masks as numbers of 8 bits, all of them set where kept, in their parameters' layout.

    For arithmetic on every weight: several times as fast as bools, in plain and in compiled steps. As fast are masks of
    floats, which take four times the memory.
    """
    return {name: torch.empty_like(params[name], dtype=torch.int8).copy_(mask).neg_() for name, mask in masks.items()}


def apply_masks(params: Params, masks: Masks) -> Params:
    """`m ⊙ w`: new parameters with pruned entries zero; the gradient of a pruned entry is zero.

    Masks are bools, or if no gradient is asked for, bits.
    """
    return {name: masked(p, masks[name]) if name in masks else p for name, p in params.items()}


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """One of `apply_masks`."""
    if mask.dtype is torch.bool:
        return torch.where(mask, values, 0)
    return (_bits(values) & mask).view(values.dtype)


def zero_pruned(values: Tensor, mask: Int8[Tensor, "*shape"]) -> None:
    """Set pruned entries to zero, in place, by a mask of bits."""
    _bits(values).bitwise_and_(mask)


def _bits(values: Tensor) -> Tensor:
    return values.detach().view(_INTEGERS[values.itemsize])


def without_biases(masks: Masks) -> Masks:
    """The masks of prunable weights: a file from elsewhere may have some of vectors, too, which ntt never prunes."""
    return {name: mask for name, mask in masks.items() if mask.ndim > 1}


def layer_densities(masks: Masks) -> dict[str, float]:
    """Kept fraction of each layer."""
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def count_kept(masks: Masks) -> int:
    """Kept weights over all layers."""
    return sum(map(_count, masks.values()))


def count_changes(before: Masks, after: Masks) -> int:
    """Entries whose fate differs between two sets of masks."""
    return sum(_count(before[name] ^ mask) for name, mask in after.items())


def _count(mask: Bool[Tensor, "*shape"]) -> int:
    return int(mask.count_nonzero())  # `sum` makes whole numbers of 8 bytes first

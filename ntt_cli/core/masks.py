"""Boolean masks, `True` = kept, with exact counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ntt_cli.core.functional import Masks, Params


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
    # Selection is several times faster than sorting, and a method of 100 rounds does little else.
    there = flat.cpu() if flat.device.type == "mps" else flat  # older torch cannot select on MPS
    lowest = there.kthvalue(flat.numel() - n_keep + 1).values.to(flat.device)
    mask = flat > lowest
    ties = (flat == lowest).nonzero().flatten()
    mask[ties[: n_keep - int(mask.sum())]] = True
    return mask.view(scores.shape)


def choose_masks(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Masks:
    """Each layer's `counts[name]` highest scores."""
    return {name: keep_top(score, n_keep=counts[name]) for name, score in scores.items()}


def as_numbers(masks: Masks, params: Mapping[str, Tensor]) -> Masks:
    """The masks as 0 and 1 in their parameters' type and layout: several times faster in products than bools are."""
    return {name: torch.empty_like(params[name].detach()).copy_(mask) for name, mask in masks.items()}


def apply_masks(params: Params, masks: Masks) -> Params:
    """`m ⊙ w`: new parameters with pruned entries zero; the gradient of a pruned entry is zero."""
    return {name: p * masks[name] if name in masks else p for name, p in params.items()}


def count_kept(masks: Masks) -> int:
    """Kept weights over all layers."""
    return sum(int(mask.sum()) for mask in masks.values())


def count_changes(before: Masks, after: Masks) -> int:
    """Entries whose fate differs between two sets of masks."""
    return sum(int((before[name] ^ mask).sum()) for name, mask in after.items())

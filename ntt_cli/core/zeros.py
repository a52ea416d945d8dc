"""What zeros in a weight mean: entries that were pruned, or nothing."""

from __future__ import annotations

from jaxtyping import Num
from torch import Tensor

FEW, SHARE = 4, 0.01
"""Zeros, and of a weight's entries, that training and rounding may leave."""

FACTOR = 4
"""How much more often zero must occur than any other value: on a grid, as of quantised weights, it is one of many."""


def looks_pruned(weight: Num[Tensor, "*shape"], *, embeds: bool = False) -> bool:
    """Whether the weight's zeros look like pruned entries: training hardly ever makes one that is exact.

    A weight that is zero throughout was initialised so, and tells nothing. Nor does a row of zeros in an embedding,
    which is that of padding or of a token that never occurred.
    """
    zeros = weight == 0
    if zeros.all():
        return False
    if embeds:
        zeros = zeros & ~zeros.flatten(1).all(1)[:, None]
    count = int(zeros.sum())
    if count <= max(FEW, SHARE * weight.numel()):
        return False
    _, others = weight[weight != 0].unique(return_counts=True)
    return count > FACTOR * int(others.max())

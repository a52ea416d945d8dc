"""What zeros in a weight mean: entries that were pruned, or nothing."""

from __future__ import annotations

from jaxtyping import Num
from torch import Tensor

FEW, SHARE = 4, 0.01
"""The number of exact zeros, and their share of a weight's entries, that training and rounding may leave.

Both leave exact zeros by chance alone. The smallest numbers of float32 and bfloat16 are smaller than any weight that
matters. float16 rounds one in 100,000 weights to zero if their standard deviation is 0.01.
"""

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
    count = int(zeros.sum())
    if embeds:
        count -= _rows_of_zeros(weight) * weight.shape[1:].numel()
    if not _are_many(count, weight):
        return False
    _, others = weight[weight != 0].unique(return_counts=True)
    return count > FACTOR * int(others.max())


def has_many_zeros(weight: Num[Tensor, "*shape"], *, embeds: bool = False) -> bool:
    """Whether so many entries are zero that somebody may have meant them, whatever for.

    In an embedding, one row of zeros is that of padding.
    """
    count = int((weight == 0).sum())
    if embeds:
        count -= min(_rows_of_zeros(weight), 1) * weight.shape[1:].numel()
    return _are_many(count, weight)


def _are_many(count: int, weight: Tensor) -> bool:
    return count > max(FEW, SHARE * weight.numel())


def _rows_of_zeros(weight: Tensor) -> int:
    return int((weight == 0).flatten(1).all(1).sum())

"""How well outputs fit targets, and how well two networks agree.

A few lines each: torchmetrics has them too, and brings a second package and many other metrics along.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

TIED = 8
"""Logits that differ by fewer roundings of the largest logit count as tied."""


def top_k_correct(logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"], *, k: int) -> Int[Tensor, "n"]:
    """1 where the label is among the `k` highest logits, else 0."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).long()


def same_first_choice(student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"]) -> tuple[int, int]:
    """On how many samples both have the same first choice, and how many samples count.

    A sample does not count if the teacher's two highest logits are tied, because rounding would decide.
    """
    best = teacher.topk(2, dim=1).values
    decided = best[:, 0] - best[:, 1] > TIED * torch.finfo(teacher.dtype).eps * teacher.abs().amax(dim=1)
    same = (student.argmax(dim=1) == teacher.argmax(dim=1)) & decided
    return int(same.count_nonzero()), int(decided.count_nonzero())


def squares(values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """`Σ x²`, in single precision at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32)).square().sum()


def mean_iou(right: Shaped[Tensor, "c"], labels: Shaped[Tensor, "c"], chosen: Shaped[Tensor, "c"]) -> float:
    """The mean of intersection over union, over the classes that occur in the labels or the choices."""
    union = labels + chosen - right
    occurs = union > 0
    return float((right[occurs] / union[occurs]).mean())


def f1(right: Tensor, chosen: Tensor, true: Tensor) -> Tensor:
    """`2 tp / (chosen + true)`, the harmonic mean of precision and recall; 0 where nothing is chosen or true."""
    return 2 * right / (chosen + true).clamp_min(1)


def auroc(scores: Float[Tensor, "n"], true: Shaped[Tensor, "n"]) -> float | None:
    """The area under the ROC curve: how often a positive scores higher than a negative, where a tie counts half.

    `None` if there are only positives or only negatives.
    """
    positives = int(true.count_nonzero())
    negatives = len(true) - positives
    if not positives or not negatives:
        return None
    _, place, size = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = size.cumsum(0) - (size - 1) / 2  # of tied scores the mean rank
    return float((ranks[place][true.bool()].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Float[Tensor, "n"], true: Shaped[Tensor, "n"]) -> float | None:
    """`Σ (R_k − R_{k−1}) P_k` over the thresholds, with precision `P` and recall `R`; `None` without a positive."""
    if not true.any():
        return None
    values, place = (-scores.double()).unique(return_inverse=True)
    hits = torch.zeros(len(values), dtype=torch.double, device=scores.device).index_add(0, place, true.double())
    chosen = torch.bincount(place, minlength=len(values)).cumsum(0)
    return float((hits / hits.sum() * hits.cumsum(0) / chosen).sum())

"""How well logits fit labels, and how well two networks agree."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

TIED = 8
"""Logits that differ by fewer roundings of the largest logit count as tied."""


def top_k_correct(logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"], *, k: int) -> Int[Tensor, "n"]:
    """1 where the label is among the `k` highest logits, else 0."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).long()


def per_class_accuracy(correct: Int[Tensor, "n"], labels: Int[Tensor, "n"], *, classes: int) -> list[float | None]:
    """The accuracy on each class; `None` for a class without samples."""
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.bincount(labels, weights=correct.double(), minlength=classes)
    return [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)]


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

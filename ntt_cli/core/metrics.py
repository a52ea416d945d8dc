"""How well logits fit labels, and how well two networks agree."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_k_correct(logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"], *, k: int) -> Int[Tensor, "n"]:
    """1 where the label is among the `k` highest logits, else 0."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).long()


def per_class_accuracy(correct: Int[Tensor, "n"], labels: Int[Tensor, "n"], *, classes: int) -> list[float | None]:
    """The fraction of each class that is correct; `None` for a class without samples."""
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.bincount(labels, weights=correct.double(), minlength=classes)
    return [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)]


def agreement(student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """The fraction of samples on which both have the same first choice."""
    return (student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean()

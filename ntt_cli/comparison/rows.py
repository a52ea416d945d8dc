"""The results of a comparison, gathered over seeds. Needs no torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from decimal import Decimal

from ntt_cli.comparison.results import CompareRow, TrialResult


def rows_of(results: Sequence[TrialResult]) -> list[CompareRow]:
    """One row for each method and sparsity, in the order of the results."""
    groups: dict[tuple[str, float | None], list[TrialResult]] = {}
    for result in results:
        groups.setdefault((result.method, result.sparsity), []).append(result)
    rows = []
    for (method, sparsity), group in groups.items():
        accuracies = [result.accuracy for result in group]
        rows.append(
            CompareRow(
                method=method,
                sparsity=sparsity,
                labels_before_training=group[0].labels_before_training,
                learning_rate=group[0].learning_rate,
                seeds=len(group),
                mean=statistics.fmean(accuracies),
                std=statistics.stdev(accuracies) if len(group) > 1 else None,
                mean_as_pruned=statistics.fmean(result.accuracy_as_pruned for result in group),
                best=False,
            )
        )
    best: dict[float | None, float] = {}
    for row in rows:
        if row.sparsity is not None:
            best[row.sparsity] = max(row.mean, best.get(row.sparsity, 0.0))
    return [row.model_copy(update={"best": row.mean == best.get(row.sparsity)}) for row in rows]


def columns_of(rows: Sequence[CompareRow]) -> dict[float | None, str]:
    """A table's headings, by sparsity; the dense network, which has none, comes first if it takes part."""
    levels = sorted({row.sparsity for row in rows if row.sparsity is not None})
    dense = {None: "dense"} if any(row.sparsity is None for row in rows) else {}
    return dense | {level: percent(level) for level in levels}


def percent(sparsity: float) -> str:
    """A sparsity in percent: 90% for 0.9. No two sparsities have the same text."""
    exact = 100 * Decimal(repr(sparsity))  # exact in decimal digits, where floats would round
    return f"{exact.to_integral() if exact == exact.to_integral() else exact.normalize()}%"

"""The page of a comparison: every method, sparsity and seed of a folder that `ntt compare` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntt_cli.comparison.charts import (
    Pruned,
    against_sparsity,
    every_method,
    kernels,
    layer_densities,
    report_at,
    training,
    transfers,
)
from ntt_cli.comparison.results import CompareRow, TrialResult, columns_of, lines_of, metric_of, rows_of
from ntt_cli.comparison.verdicts import findings_of, methods_in_colour, note_on, sentences_of
from ntt_cli.config import REFERENCES, CompareConfig, method_of
from ntt_cli.config.repeat import command_of
from ntt_cli.errors import OutputError
from ntt_cli.files.results import read_results, read_settings
from ntt_cli.pages.figures import Page, Table
from ntt_cli.results import OWN_WEIGHTS

AFTER = "mean ± standard deviation over seeds"
BEFORE = "as pruned, before fine-tuning sees a label"


def comparison_page(folder: Path) -> Page:
    """What the folder holds, in words and pictures; trials that are not done are left out."""
    settings = read_settings(folder)
    trials = read_results(folder, TrialResult)
    if not trials:
        raise OutputError(folder, "holds a comparison without a single result yet", hint="run ntt compare first")
    results = sorted(trials.values(), key=lambda result: (result.method, result.sparsity or 0, result.seed))
    rows = rows_of(results)
    methods = _ranked(rows)
    seeds = sorted({result.seed for result in results})
    found = ((result, report_at(trial / "sparse.safetensors")) for trial, result in trials.items())
    pruned = [(result, report) for result, report in found if report is not None]
    trained = bool(settings.get("weights")) or any(result.trained for result in results)
    before = rows_of(results, as_pruned=True) if trained else None
    first = sorted(
        ((result, report) for result, report in pruned if result.seed == seeds[0]),
        key=lambda pair: (methods.index(pair[0].method), pair[0].sparsity or 0),
    )
    name, unit = metric_of(rows)
    what = f"Test {name}" + (" in %" if unit else "")
    tables = [_table(rows, methods, f"{what}, {AFTER}")]
    if before:
        tables.insert(0, _table(before, methods, f"{what} {BEFORE}, {AFTER}"))
    findings = [finding for each in (before, rows) if each for finding in findings_of(each, methods).values()]
    coloured = methods_in_colour(rows, findings, methods)
    sparse = any(row.sparsity is not None for row in rows)
    return Page(
        f"Comparison: {folder.resolve().name}",
        {
            "model": str(settings.get("model")),
            "data": str(settings.get("data") or _data_of(pruned) or "that of the model"),
            "teacher": str(settings.get("weights") or (OWN_WEIGHTS if trained else "random weights, by seed")),
            "training": f"{_epochs(settings)} of {settings.get('optimiser')}, the same for every method",
            "rates": _rates(settings),
            "trials": f"{len(trials)}, with seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        },
        findings=sentences_of(rows, before, methods),
        note=note_on(rows, seeds),
        lead=against_sparsity(rows, before, methods, coloured) if sparse else None,
        tables=tuple(tables),
        rest=(
            *every_method(rows, before),
            *training(trials, methods),
            *layer_densities(pruned, methods),
            *transfers(first),
            *kernels(first),
        ),
        command=_command(settings, results),
        labels=coloured,
    )


def _epochs(settings: Mapping[str, Any]) -> str:
    count = settings.get("epochs")
    return f"{count} epoch{'s' * (count != 1)}"


def _command(settings: Mapping[str, Any], results: Sequence[TrialResult]) -> str:
    """The command that makes the same comparison, empty if none does."""
    given = {name: value for name, value in settings.items() if name in CompareConfig.model_fields}
    given["methods"] = list(dict.fromkeys(result.method for result in results))
    given["sparsities"] = sorted({result.sparsity for result in results if result.sparsity is not None})
    seeds = {result.seed for result in results}
    first = settings["first seed"]
    given["seeds"] = sorted(seeds, key=lambda seed: (seed != first, seed))
    try:
        return command_of("compare", given)
    except ValueError:
        return ""


def _data_of(pruned: Pruned) -> str | None:
    """The data that the model named, from the first pruning that read data and whose method has none of its own."""
    shared = (report for result, report in pruned if "data" not in method_of(result.method)[1])
    return next((data for report in shared if (data := report.summary.get("data"))), None)


def _rates(settings: Mapping[str, Any]) -> str:
    rates = [f"{rate:.15g}" for rate in settings.get("learning_rates") or ()]
    if not rates:
        return "ntt finetune's own"
    if len(rates) == 1:
        return rates[0]
    return f"{', '.join(rates)}: by method and sparsity, the best on validation samples of the first seed"


def _ranked(rows: Sequence[CompareRow]) -> list[str]:
    """Methods by their mean over the sparsities, best first; references last."""
    means: dict[str, list[float]] = {}
    for row in rows:
        means.setdefault(row.method, []).append(row.sign * row.mean)
    ranked = sorted(means, key=lambda method: -float(np.mean(means[method])))
    return sorted(ranked, key=lambda method: method in REFERENCES)


def _table(rows: Sequence[CompareRow], methods: Sequence[str], caption: str) -> Table:
    lines, strong = [], set()
    for number, (method, labels, own) in enumerate(lines_of(rows, methods)):
        lines.append((method, labels, *(row.in_words if row else "" for row in own)))
        strong |= {(number, column + 2) for column, row in enumerate(own) if row and row.best}
    head = ("method", "labels before training", *columns_of(rows).values())
    return Table(head, tuple(lines), caption, frozenset(strong))

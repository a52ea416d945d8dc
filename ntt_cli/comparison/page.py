"""The page of a comparison: every method, sparsity and seed of a folder that `ntt compare` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntt_cli.comparison.results import CompareRow, TrialResult, columns_of, lines_of, metric_of, percent, rows_of
from ntt_cli.config import REFERENCES, method_of
from ntt_cli.errors import CheckpointError, OutputError
from ntt_cli.files.report_reader import Report, read_report
from ntt_cli.files.results import read_results, read_settings
from ntt_cli.pages.curves import PREDICTION, SPECTRA, kernel_panels, transfer_figures
from ntt_cli.pages.figures import Figure, Numbers, Page, Panel, Series, Table
from ntt_cli.results import OWN_WEIGHTS, metric_words

SAME_TRANSFER = ("ntt-shuffled", "ntt-fresh")
"""Methods whose transfer is that of `ntt`."""

AFTER = "mean ± standard deviation over seeds"
BEFORE = "as pruned, before fine-tuning sees a label"

Pruned = Sequence[tuple[TrialResult, Report]]
"""Results of trials, with the reports of their pruning."""


def comparison_page(folder: Path) -> Page:
    """What the folder holds, in pictures; trials that are not done are left out."""
    settings = read_settings(folder)
    trials = read_results(folder, TrialResult)
    if not trials:
        raise OutputError(folder, "holds a comparison without a single result yet", hint="run ntt compare first")
    rows = rows_of(sorted(trials.values(), key=lambda result: (result.method, result.sparsity or 0, result.seed)))
    methods = _ranked(rows)
    seeds = sorted({result.seed for result in trials.values()})
    found = ((result, _report(trial / "sparse.safetensors")) for trial, result in trials.items())
    pruned = [(result, report) for result, report in found if report is not None]
    trained = any(report.summary.get("teacher") == OWN_WEIGHTS for _, report in pruned)
    facts = {
        "model": str(settings.get("model")),
        "data": str(settings.get("data") or _data_of(pruned) or "that of the model"),
        "teacher": str(settings.get("weights") or (OWN_WEIGHTS if trained else "random weights, by seed")),
        "training": f"{settings.get('epochs')} epochs of {settings.get('optimiser')}, the same for every method",
        "rates": _rates(settings),
        "seeds": ", ".join(map(str, seeds)),
        "trials": str(len(trials)),
    }
    name, unit = metric_of(rows)
    what = f"Test {name}" + (" in %" if unit else "")
    tables = [_table(rows, methods, lambda row: row.in_words, f"{what}, {AFTER}")]
    if settings.get("weights"):
        tables.append(_table(rows, methods, lambda row: row.shown(row.mean_as_pruned), f"{what} {BEFORE}"))
    first = sorted(
        ((result, report) for result, report in pruned if result.seed == seeds[0]),
        key=lambda pair: (methods.index(pair[0].method), pair[0].sparsity or 0),
    )
    figures = [
        *_accuracy(rows, methods),
        *_training(trials, methods),
        *_layers(pruned, methods),
        *_transfers(first),
        *_kernels(first),
    ]
    return Page(f"Comparison: {folder.resolve().name}", facts, tuple(tables), tuple(figures), tuple(methods))


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


def _table(
    rows: Sequence[CompareRow], methods: Sequence[str], show: Callable[[CompareRow], str], caption: str
) -> Table:
    lines, strong = [], set()
    for number, (method, labels, own) in enumerate(lines_of(rows, methods)):
        lines.append((method, labels, *(show(row) if row else "" for row in own)))
        strong |= {(number, column + 2) for column, row in enumerate(own) if row and row.best}
    head = ("method", "labels before training", *columns_of(rows).values())
    return Table(head, tuple(lines), caption, frozenset(strong))


def _accuracy(rows: Sequence[CompareRow], methods: Sequence[str]) -> list[Figure]:
    levels = [level for level in columns_of(rows) if level is not None]
    figures = [_against_sparsity(rows, methods, levels)] if len(levels) > 1 else []
    panels, (name, unit) = [], metric_of(rows)
    for level in levels:
        own = sorted((row for row in rows if row.sparsity == level), key=lambda row: -row.sign * row.mean)
        mean, spread = _means(own)
        dots = Series("", mean, np.arange(len(own), dtype=np.float64), spread)
        names = tuple((float(i), row.method) for i, row in enumerate(own))
        panels.append(Panel(f"{percent(level)} sparse", f"test {name}{unit}", "", (dots,), form="dots", ticks=names))
    caption = "The same by sparsity, best first; bars are one standard deviation over seeds."
    if panels:  # none where only the dense network takes part
        figures.append(Figure("methods", "Methods at each sparsity", caption, tuple(panels)))
    return figures


def _against_sparsity(rows: Sequence[CompareRow], methods: Sequence[str], levels: Sequence[float]) -> Figure:
    kept = {level: 100 * (1 - level) for level in levels}
    series = []
    for method in methods:
        own = {row.sparsity: row for row in rows if row.method == method}
        found = [level for level in levels if level in own]
        if found:
            x, sparse = np.array([kept[level] for level in found]), [own[level] for level in found]
            series.append(Series(method, x, *_means(sparse), dashed=sparse[0].labels_before_training))
    ends = np.array([kept[levels[0]], kept[levels[-1]]])
    series += [Series("dense", ends, *_means([row, row])) for row in rows if row.sparsity is None]
    name, unit = metric_of(rows)
    panel = Panel(
        f"Test {name}",
        "sparsity",
        unit.removeprefix(", "),
        tuple(series),
        form="marked",
        ticks=tuple((kept[level], percent(level)) for level in levels),
        log="x",
        reversed=True,
        floor=_floor(rows, levels[-1]),
    )
    caption = (
        "Means over seeds; bands are one standard deviation. Broken lines saw labels before training. Lines that"
        " leave the frame are in the table."
    )
    return Figure("accuracy", f"{name.capitalize()} against sparsity", caption, (panel,))


def _floor(rows: Sequence[CompareRow], level: float) -> float | None:
    """Where the axis of accuracy begins, so that three quarters of the methods at this sparsity are well seen."""
    if metric_of(rows)[0] != "accuracy":
        return None
    means = sorted(100 * row.mean for row in rows if row.sparsity == level)
    low, high = means[len(means) // 4], means[-1]
    floor = low - (high - low) / 2 - 0.5
    return floor if means[0] < floor else None


def _means(rows: Sequence[CompareRow]) -> tuple[Numbers, Numbers]:
    """Means and their deviations, accuracies in percent."""
    scale = 100 if metric_of(rows)[1] else 1
    return np.array([scale * row.mean for row in rows]), np.array([scale * (row.std or 0) for row in rows])


def _training(trials: Mapping[Path, TrialResult], methods: Sequence[str]) -> list[Figure]:
    curves: dict[tuple[str, float | None], list[Numbers]] = {}
    name, scale = "accuracy", 100
    for trial, result in trials.items():
        report = _tuned_report(trial, result)
        values = report.history(result.metric) if report else None
        name, scale = (result.metric, 100) if result.metric == "accuracy" else (metric_words(result.metric), 1)
        if values is not None:
            curves.setdefault((result.method, result.sparsity), []).append(scale * values)
    panels = []
    for level in sorted({sparsity for _, sparsity in curves if sparsity is not None}):
        series = []
        for method in methods:
            found = curves.get((method, level)) or (curves.get((method, None)) if method == "dense" else None)
            if found:
                length = min(map(len, found))
                stacked = np.stack([values[:length] for values in found])
                spread = stacked.std(axis=0, ddof=1) if len(found) > 1 else None
                series.append(Series(method, np.arange(1.0, length + 1), stacked.mean(axis=0), spread))
        panels.append(
            Panel(f"{percent(level)} sparse", "epoch", f"validation {name}" + ", %" * (scale > 1), tuple(series))
        )
    if not panels:
        return []
    caption = (
        f"{name.capitalize()} on the held-out training samples after each epoch, at the chosen rate; bands are one"
        " standard deviation."
    )
    return [Figure("training", "Fine-tuning", caption, tuple(panels))]


def _layers(pruned: Pruned, methods: Sequence[str]) -> list[Figure]:
    densities: dict[tuple[float, str], list[list[float]]] = {}
    names: list[str] = []
    for result, report in pruned:
        if result.sparsity is not None:
            layers = report.summary["layers"]
            names = [layer["name"] for layer in layers]
            of_method = densities.setdefault((result.sparsity, result.method), [])
            of_method.append([100 * layer["density"] for layer in layers])
    places = np.arange(len(names), dtype=np.float64)
    ticks = tuple((float(i), name) for i, name in enumerate(names))
    panels = []
    for level in sorted({sparsity for sparsity, _ in densities}):
        means = {name: np.mean(densities[level, name], axis=0) for name in methods if (level, name) in densities}
        series = tuple(Series(method, places, mean) for method, mean in means.items())
        panels.append(Panel(f"{percent(level)} sparse", "", "kept, %", series, form="marked", ticks=ticks, log="y"))
    caption = "How each method spreads the same number of weights over the layers; means over seeds."
    return [Figure("layers", "Density by layer", caption, tuple(panels))] if panels else []


def _transfers(first: Pruned) -> list[Figure]:
    return transfer_figures({
        f"{result.method}, {percent(result.sparsity or 0)}": report
        for result, report in first
        if result.method not in SAME_TRANSFER
    })


def _kernels(first: Pruned) -> list[Figure]:
    spectra, predictions = [], []
    for level in sorted({result.sparsity for result, _ in first if result.sparsity is not None}):
        reports = {result.method: report for result, report in first if result.sparsity == level}
        if (panels := kernel_panels(f"{percent(level)} sparse", reports)) is not None:
            spectra.append(panels[0])
            predictions.append(panels[1])
    return [Figure(*SPECTRA, tuple(spectra)), Figure(*PREDICTION, tuple(predictions))] if spectra else []


def _tuned_report(trial: Path, result: TrialResult) -> Report | None:
    for path in sorted(trial.glob("tuned*.report.safetensors")):
        report = _report(path)
        if report is not None and report.summary.get("learning_rate") == result.learning_rate:
            return report
    return None


def _report(path: Path) -> Report | None:
    """The report, if it is there: users may have removed large files."""
    try:
        return read_report(path)
    except CheckpointError:
        return None

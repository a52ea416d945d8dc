"""The page of a comparison: every method, sparsity and seed of a folder that `ntt compare` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntt_cli.comparison.results import CompareRow, TrialResult
from ntt_cli.comparison.rows import columns_of, percent, rows_of
from ntt_cli.config import REFERENCES, method_of
from ntt_cli.errors import CheckpointError, OutputError
from ntt_cli.files.report_reader import Report, read_report
from ntt_cli.files.results import read_results, read_settings
from ntt_cli.pages.curves import PREDICTION, SPECTRA, figure, kernel_panels, transfer_figures
from ntt_cli.pages.figures import Figure, Numbers, Page, Panel, Series, Table
from ntt_cli.results import OWN_WEIGHTS

SAME_TRANSFER = ("ntt-shuffled", "ntt-fresh")
"""Methods whose transfer is that of `ntt`."""

AFTER = "Test accuracy in %, mean ± standard deviation over seeds"
BEFORE = "Test accuracy in % as pruned, before fine-tuning sees a label"

Trials = dict[Path, TrialResult]


def comparison_page(folder: Path) -> Page:
    """What the folder holds, in pictures; trials that are not done are left out.

    Raises:
        OutputError: if there is no comparison in it, or nothing is done yet.
    """
    settings = read_settings(folder)
    trials = read_results(folder, TrialResult)
    if not trials:
        raise OutputError(folder, "holds a comparison without a single result yet", hint="run ntt compare first")
    rows = rows_of(sorted(trials.values(), key=lambda result: (result.method, result.sparsity or 0, result.seed)))
    methods = _ranked(rows)
    seeds = sorted({result.seed for result in trials.values()})
    pruned = {trial: report for trial in trials if (report := _report(trial / "sparse.safetensors")) is not None}
    trained = any(report.summary.get("teacher") == OWN_WEIGHTS for report in pruned.values())
    facts = {
        "model": str(settings.get("model")),
        "data": str(settings.get("data") or _data_of(trials, pruned) or "that of the model"),
        "teacher": str(settings.get("weights") or (OWN_WEIGHTS if trained else "random weights, by seed")),
        "training": f"{settings.get('epochs')} epochs of {settings.get('optimiser')}, the same for every method",
        "rates": _rates(settings),
        "seeds": ", ".join(map(str, seeds)),
        "trials": str(len(trials)),
    }
    tables = [_table(rows, methods, lambda row: _spread(row.mean, row.std), AFTER)]
    if settings.get("weights"):
        tables.append(_table(rows, methods, lambda row: f"{100 * row.mean_as_pruned:.2f}", BEFORE))
    figures = [*_accuracy(rows, methods), *_training(trials, methods)]
    for part in (_layers, _transfers, _kernels):
        figures += part(trials, pruned, methods)
    return Page(f"Comparison: {folder.resolve().name}", facts, tuple(tables), tuple(figures), tuple(methods))


def _data_of(trials: Trials, pruned: Mapping[Path, Report]) -> str | None:
    """The data that the model named, from the first pruning that read data and whose method has none of its own."""
    shared = (report for trial, report in pruned.items() if "data" not in method_of(trials[trial].method)[1])
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
        means.setdefault(row.method, []).append(row.mean)
    ranked = sorted(means, key=lambda method: -float(np.mean(means[method])))
    return sorted(ranked, key=lambda method: method in REFERENCES)


def _levels(rows: Sequence[CompareRow]) -> list[float]:
    return sorted({row.sparsity for row in rows if row.sparsity is not None})


def _spread(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def _table(
    rows: Sequence[CompareRow], methods: Sequence[str], show: Callable[[CompareRow], str], caption: str
) -> Table:
    columns = columns_of(rows)
    by_method = {(row.method, row.sparsity): row for row in rows}
    lines, strong = [], set()
    for number, method in enumerate(methods):
        own = [by_method.get((method, level)) for level in columns]
        sees = any(row.labels_before_training for row in own if row)
        lines.append((method, "yes" if sees else "no", *(show(row) if row else "" for row in own)))
        strong |= {(number, column + 2) for column, row in enumerate(own) if row and row.best}
    head = ("method", "labels before training", *columns.values())
    return Table(head, tuple(lines), caption, frozenset(strong))


def _accuracy(rows: Sequence[CompareRow], methods: Sequence[str]) -> list[Figure]:
    levels, figures = _levels(rows), []
    by_method = {(row.method, row.sparsity): row for row in rows}
    dense = by_method.get(("dense", None))
    if len(levels) > 1:
        series = []
        for method in methods:
            own = [row for level in levels if (row := by_method.get((method, level)))]
            if own:
                x = np.array([100 * (1 - (row.sparsity or 0)) for row in own])
                series.append(_band(method, x, own, dashed=own[0].labels_before_training))
        if dense is not None:
            ends = np.array([100 * (1 - levels[0]), 100 * (1 - levels[-1])])
            series.append(_band("dense", ends, [dense, dense], dashed=False))
        ticks = tuple((100 * (1 - level), percent(level)) for level in levels)
        panel = Panel(
            "Test accuracy",
            "sparsity",
            "%",
            tuple(series),
            form="marked",
            ticks=ticks,
            log="x",
            reversed=True,
            floor=_floor(rows, levels[-1]),
        )
        caption = (
            "Means over seeds; bands are one standard deviation. Broken lines saw labels before training. Lines that"
            " leave the frame are in the table."
        )
        figures.append(figure(("accuracy", "Accuracy against sparsity", caption), [panel]))
    panels = []
    for level in levels:
        own = sorted((row for row in rows if row.sparsity == level), key=lambda row: -row.mean)
        names = tuple((float(i), row.method) for i, row in enumerate(own))
        spread = np.array([100 * (row.std or 0) for row in own])
        values = np.array([100 * row.mean for row in own])
        dots = Series("", values, np.arange(len(own), dtype=np.float64), spread)
        panels.append(Panel(f"{percent(level)} sparse", "test accuracy, %", "", (dots,), form="dots", ticks=names))
    caption = "The same by sparsity, best first; bars are one standard deviation over seeds."
    if panels:  # none where only the dense network takes part
        figures.append(figure(("methods", "Methods at each sparsity", caption), panels))
    return figures


def _floor(rows: Sequence[CompareRow], level: float) -> float | None:
    """Where the axis of accuracy begins, so that three quarters of the methods at this sparsity are well seen."""
    means = sorted(100 * row.mean for row in rows if row.sparsity == level)
    low, high = means[len(means) // 4], means[-1]
    floor = low - (high - low) / 2 - 0.5
    return floor if means[0] < floor else None


def _band(label: str, x: Numbers, rows: Sequence[CompareRow], *, dashed: bool) -> Series:
    mean = np.array([100 * row.mean for row in rows])
    spread = np.array([100 * (row.std or 0) for row in rows])
    return Series(label, x, mean, spread, dashed=dashed)


def _training(trials: Trials, methods: Sequence[str]) -> list[Figure]:
    curves: dict[tuple[str, float | None], list[Numbers]] = {}
    for trial, result in trials.items():
        report = _tuned_report(trial, result)
        accuracy = report.history("accuracy") if report else None
        if accuracy is not None:
            curves.setdefault((result.method, result.sparsity), []).append(100 * accuracy)
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
        panels.append(Panel(f"{percent(level)} sparse", "epoch", "validation accuracy, %", tuple(series)))
    if not panels:
        return []
    caption = (
        "Accuracy on the held-out training samples after each epoch, at the chosen rate; bands are one standard"
        " deviation."
    )
    return [figure(("training", "Fine-tuning", caption), panels)]


def _layers(trials: Trials, pruned: Mapping[Path, Report], methods: Sequence[str]) -> list[Figure]:
    densities: dict[tuple[float, str], list[list[float]]] = {}
    names: list[str] = []
    for trial, report in pruned.items():
        sparsity = trials[trial].sparsity
        if sparsity is not None:
            layers = report.summary["layers"]
            names = [layer["name"] for layer in layers]
            densities.setdefault((sparsity, trials[trial].method), []).append([
                100 * layer["density"] for layer in layers
            ])
    ticks = tuple((float(i), name) for i, name in enumerate(names))
    panels = [
        Panel(
            f"{percent(level)} sparse",
            "",
            "kept, %",
            tuple(
                Series(method, np.arange(len(names), dtype=np.float64), np.mean(densities[level, method], axis=0))
                for method in methods
                if (level, method) in densities
            ),
            form="marked",
            ticks=ticks,
            log="y",
        )
        for level in sorted({sparsity for sparsity, _ in densities})
    ]
    caption = "How each method spreads the same number of weights over the layers; means over seeds."
    return [figure(("layers", "Density by layer", caption), panels)] if panels else []


def _transfers(trials: Trials, pruned: Mapping[Path, Report], methods: Sequence[str]) -> list[Figure]:
    first = min(result.seed for result in trials.values())
    runs = {
        f"{trials[trial].method}, {percent(trials[trial].sparsity or 0)}": report
        for trial, report in sorted(pruned.items(), key=lambda item: _place(trials[item[0]], methods))
        if trials[trial].seed == first and trials[trial].method not in SAME_TRANSFER
    }
    return transfer_figures(runs)


def _kernels(trials: Trials, pruned: Mapping[Path, Report], methods: Sequence[str]) -> list[Figure]:
    first = min(result.seed for result in trials.values())
    spectra, predictions = [], []
    for level in sorted({result.sparsity for result in trials.values() if result.sparsity is not None}):
        chosen = sorted(
            (trial for trial in pruned if trials[trial].sparsity == level and trials[trial].seed == first),
            key=lambda trial: _place(trials[trial], methods),
        )
        panels = kernel_panels(f"{percent(level)} sparse", {trials[trial].method: pruned[trial] for trial in chosen})
        if panels is not None:
            spectra.append(panels[0])
            predictions.append(panels[1])
    return [figure(SPECTRA, spectra), figure(PREDICTION, predictions)] if spectra else []


def _place(result: TrialResult, methods: Sequence[str]) -> tuple[int, float]:
    return methods.index(result.method), result.sparsity or 0


def _tuned_report(trial: Path, result: TrialResult) -> Report | None:
    """The report of the fine-tuning at the chosen rate."""
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

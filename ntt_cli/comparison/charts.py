"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ntt_cli.comparison.results import CompareRow, TrialResult, columns_of, metric_of, percent
from ntt_cli.errors import CheckpointError
from ntt_cli.files.report_reader import Report, read_report
from ntt_cli.pages.curves import PREDICTION, SPECTRA, kernel_panels, transfer_figures
from ntt_cli.pages.figures import Figure, Numbers, Panel, Series
from ntt_cli.results import metric_words

SAME_TRANSFER = ("ntt-shuffled", "ntt-fresh")
"""Methods whose transfer is that of `ntt`."""

Pruned = Sequence[tuple[TrialResult, Report]]
"""Results of trials, with the reports of their pruning."""


def against_sparsity(
    rows: Sequence[CompareRow], pruned: Sequence[CompareRow] | None, methods: Sequence[str], coloured: Sequence[str]
) -> Figure:
    """The figure beside the sentences: as pruned, if that counts, and after fine-tuning. One sparsity has dots."""
    levels = [level for level in columns_of(rows) if level is not None]
    name, _ = metric_of(rows)
    shown = [("as pruned", pruned), ("after fine-tuning", rows)] if pruned else [(f"Test {name}", rows)]
    if len(levels) == 1:
        panels = [_dots(own, levels[0], f"{title.capitalize()}, {percent(levels[0])} sparse") for title, own in shown]
        return Figure("accuracy", name.capitalize(), _dots_caption(rows), tuple(panels))
    panels = [_lines(own, methods, levels, title[:1].upper() + title[1:]) for title, own in shown]
    how = ["Vertical lines and bands are one standard deviation over seeds."] * any(row.std is not None for row in rows)
    if any(row.labels_before_training for row in rows):
        how.append("Broken lines saw labels before training.")
    if set(methods) - set(coloured) - {"dense"}:
        how.append("Grey are the other methods, named below.")
    if any(panel.floor is not None for panel in panels):
        how.append("An arrow is where a line leaves the frame.")
    return Figure("accuracy", f"{name.capitalize()} against sparsity", " ".join(how), tuple(panels))


def every_method(rows: Sequence[CompareRow], pruned: Sequence[CompareRow] | None) -> list[Figure]:
    """All methods by sparsity, best first, unless the first figure has them."""
    levels = [level for level in columns_of(rows) if level is not None]
    if len(levels) < 2:
        return []
    caption = _dots_caption(rows)
    figures = []
    if pruned:
        panels = tuple(_dots(pruned, level, f"{percent(level)} sparse, as pruned") for level in levels)
        figures.append(Figure("methods-as-pruned", "Every method at each sparsity, as pruned", caption, panels))
    panels = tuple(_dots(rows, level, f"{percent(level)} sparse") for level in levels)
    return [*figures, Figure("methods", "Every method at each sparsity", caption, panels)]


def _dots_caption(rows: Sequence[CompareRow]) -> str:
    return "Best first." + " Bars are one standard deviation over seeds." * any(row.std is not None for row in rows)


def _dots(rows: Sequence[CompareRow], level: float, title: str) -> Panel:
    own = sorted((row for row in rows if row.sparsity == level), key=lambda row: -row.sign * row.mean)
    mean, spread = _means(own)
    names = tuple((float(i), row.method) for i, row in enumerate(own))
    dots = Series("", mean, np.arange(len(own), dtype=np.float64), spread)
    name, unit = metric_of(rows)
    return Panel(title, f"test {name}{unit}", "", (dots,), form="dots", ticks=names)


def _lines(rows: Sequence[CompareRow], methods: Sequence[str], levels: Sequence[float], title: str) -> Panel:
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
    return Panel(
        title,
        "sparsity",
        metric_of(rows)[1].removeprefix(", "),
        tuple(series),
        form="marked",
        ticks=tuple((kept[level], percent(level)) for level in levels),
        log="x",
        reversed=True,
        floor=_floor(rows, levels[-1]),
    )


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


def training(trials: Mapping[Path, TrialResult], methods: Sequence[str]) -> list[Figure]:
    curves: dict[tuple[str, float | None], list[Numbers]] = {}
    name, scale = "accuracy", 100
    for trial, result in trials.items():
        report = _tuned_report(trial, result)
        values = report.history(result.metric) if report else None
        name, scale = (result.metric, 100) if result.metric == "accuracy" else (metric_words(result.metric), 1)
        if values is not None and len(values) > 1:  # one epoch makes no curve
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


def layer_densities(pruned: Pruned, methods: Sequence[str]) -> list[Figure]:
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


def transfers(first: Pruned) -> list[Figure]:
    """Two figures for each method that moves weights, with a line for each sparsity."""
    runs: dict[str, dict[str, Report]] = {}
    for result, report in first:
        if result.method not in SAME_TRANSFER:
            runs.setdefault(result.method, {})[percent(result.sparsity or 0)] = report
    figures: list[Figure] = []
    for method, own in runs.items():
        figures += transfer_figures(own, of=method, number=1 + len(figures) // 2)
    return figures


def kernels(first: Pruned) -> list[Figure]:
    spectra, predictions = [], []
    for level in sorted({result.sparsity for result, _ in first if result.sparsity is not None}):
        reports = {result.method: report for result, report in first if result.sparsity == level}
        if (panels := kernel_panels(f"{percent(level)} sparse", reports)) is not None:
            spectra.append(panels[0])
            predictions.append(panels[1])
    return [Figure(*SPECTRA, tuple(spectra)), Figure(*PREDICTION, tuple(predictions))] if spectra else []


def _tuned_report(trial: Path, result: TrialResult) -> Report | None:
    for path in sorted(trial.glob("tuned*.report.safetensors")):
        report = report_at(path)
        if report is not None and report.summary.get("learning_rate") == result.learning_rate:
            return report
    return None


def report_at(path: Path) -> Report | None:
    """The report, if it is there: users may have removed large files."""
    try:
        return read_report(path)
    except CheckpointError:
        return None

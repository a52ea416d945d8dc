"""The page of one run of `ntt prune` or `ntt finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydantic import ValidationError

from ntt_cli.config.repeat import command_of
from ntt_cli.errors import CheckpointError
from ntt_cli.files.metadata import AGAIN
from ntt_cli.files.report_reader import Report
from ntt_cli.pages.curves import PREDICTION, SPECTRA, kernel_panels, transfer_figures
from ntt_cli.pages.figures import Figure, Page, Panel, Series, Table
from ntt_cli.results import FinetuneReport, LayerSummary, PruneReport, metric_words, shown_metric


def run_page(report: Report) -> Page:
    """What the report holds, in words and pictures."""
    try:
        if report.kind == "finetune report":
            return _finetuned(report, FinetuneReport.model_validate(report.summary))
        return _pruned(report, PruneReport.model_validate(report.summary))
    except ValidationError as error:
        raise CheckpointError(report.path, "is of another version of ntt", hint=AGAIN) from error


def _written(report: Report) -> dict[str, str]:
    """When the report was written, by its file: a date inside would make the same run's files differ."""
    moment = datetime.fromtimestamp(report.path.stat().st_mtime, UTC)
    return {"written": f"{moment:%Y-%m-%d %H:%M} UTC, by the time stamp of {report.path.name}"}


def _command(report: Report) -> str:
    """The command that repeats the run; empty if none does, or an older ntt did not record the options."""
    try:
        return command_of(report.kind.split()[0], report.config or {})
    except ValueError:
        return ""


def _options(config: dict[str, Any] | None) -> tuple[Table, ...]:
    if not config:
        return ()
    rows = tuple((name.replace("_", "-"), _value(value)) for name, value in sorted(config.items()))
    return (Table(("option", "value"), rows, "Options, those with their defaults too"),)


def _value(value: Any) -> str:
    if value is None or value == []:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pruned(report: Report, summary: PruneReport) -> Page:
    facts = {
        "model": summary.model,
        "teacher": summary.teacher,
        "method": summary.method,
        "data": summary.data or "none",
    }
    if summary.steps:
        facts["steps"] = f"{summary.steps:,}"
    if summary.structure is not None:
        facts["channels"] = summary.structure.in_words
    if summary.pattern is not None:
        facts["pattern"] = summary.pattern_in_words
    if summary.sizes is not None:
        facts["bytes"] = summary.sizes.in_words
    if summary.agreement is not None:
        name = "output" if summary.agreement.top1_agreement is None else "logit"
        facts[f"{name} distance"] = f"{summary.agreement.logit_distance:.4g}"
        if summary.agreement.kernel_distance is not None:
            facts["kernel distance"] = f"{summary.agreement.kernel_distance:.4g}"
        if summary.agreement.top1_agreement is not None:
            facts["same first choice as the teacher"] = f"{summary.agreement.top1_agreement:.2%} of samples"
    if summary.kernels is not None:
        alignment = "none" if summary.kernels.alignment is None else f"{summary.kernels.alignment:.4g}"
        facts["kernels' alignment"] = f"{alignment} on {summary.kernels.extent}"
        facts["effective rank"] = summary.kernels.ranks
    layers = Table(
        head=("layer", "shape", "kept", "of", "density"),
        rows=tuple(
            (layer.name, "×".join(map(str, layer.shape)), f"{layer.kept:,}", f"{layer.size:,}", f"{layer.density:.2%}")
            for layer in summary.layers
        ),
        caption="Prunable weights",
    )
    return Page(
        summary.output,
        facts | _written(report),
        findings=_findings(summary),
        lead=_layers(summary.layers),
        tables=(layers, *_options(report.config)),
        rest=tuple(_prune_figures(report)),
        command=_command(report),
    )


def _findings(summary: PruneReport) -> dict[str, str]:
    kept = f"{summary.kept:,} of {summary.prunable:,} prunable weights, {summary.sparsity:.2%} sparse."
    findings = {"Kept": kept}
    by_density = sorted(summary.layers, key=lambda layer: layer.density)
    if by_density and by_density[0].density < by_density[-1].density:
        least, most = (f"{layer.name} with {layer.density:.2%}" for layer in (by_density[0], by_density[-1]))
        findings["Densest"] = f"{most} of its weights."
        findings["Sparsest"] = f"{least}."
    return findings


def _layers(layers: Sequence[LayerSummary]) -> Figure:
    places = np.arange(len(layers), dtype=np.float64)
    series = (
        Series("weights", np.array([float(layer.size) for layer in layers]), places),
        Series("kept", np.array([float(layer.kept) for layer in layers]), places),
    )
    ticks = tuple((float(row), layer.name.removesuffix(".weight")) for row, layer in enumerate(layers))
    caption = (
        "The layers in the order of the network. A bar is as long as the square root of the layer's number of weights;"
        " filled is the part that is kept, with its density and count."
    )
    return Figure("layers", "Layers", caption, (Panel("Where the weights are", "", "", series, "layers", ticks),))


def _prune_figures(report: Report) -> list[Figure]:
    figures = transfer_figures({"student": report})
    panels = kernel_panels("", {"student": report})
    if panels is not None:
        figures += [Figure(*head, (panel,)) for head, panel in zip((SPECTRA, PREDICTION), panels, strict=True)]
    return figures


def _finetuned(report: Report, summary: FinetuneReport) -> Page:
    facts = {
        "model": summary.model,
        "data": summary.data,
        "density": f"{summary.density:.2%}",
        "optimiser": f"{summary.optimiser}, rate {summary.learning_rate:g}",
    }
    if summary.sizes is not None:
        facts["bytes"] = summary.sizes.in_words
    metric, value = summary.metric, summary.accuracy if summary.metric == "accuracy" else summary.value
    if metric != "accuracy":
        facts["task"] = summary.task
    findings = {}
    if value is not None:
        findings[f"Validation {metric_words(metric)}"] = (
            f"{shown_metric(metric, value)} after epoch {summary.best_epoch}."
        )
    epochs = np.array([float(epoch.epoch) for epoch in summary.epochs])
    losses = np.array([epoch.train_loss for epoch in summary.epochs])
    unit = "cross-entropy" if summary.task == "classification" else "loss"
    panels = [Panel("Training loss", "epoch", unit, (Series("training", epochs, losses),), form="marked")]
    of_epochs = (epoch.accuracy if metric == "accuracy" else epoch.value for epoch in summary.epochs)
    values = [value for value in of_epochs if value is not None]
    if len(values) == len(epochs):
        series = Series("validation", epochs, (100 if metric == "accuracy" else 1) * np.array(values))
        unit = "%" if metric == "accuracy" else metric_words(metric)
        panels.append(Panel(f"Validation {metric_words(metric)}", "epoch", unit, (series,), form="marked"))
    caption = f"Each epoch's mean loss, and its {metric_words(metric)} on the held-out samples."
    return Page(
        summary.output,
        facts | _written(report),
        findings=findings,
        lead=Figure("training", "Training", caption, tuple(panels)),
        tables=_options(report.config),
        command=_command(report),
    )

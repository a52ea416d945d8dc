"""The page of one run of `ntt prune` or `ntt finetune`."""

from __future__ import annotations

import numpy as np
from pydantic import ValidationError

from ntt_cli.errors import CheckpointError
from ntt_cli.files.metadata import AGAIN
from ntt_cli.files.report_reader import Report
from ntt_cli.pages.curves import PREDICTION, SPECTRA, kernel_panels, transfer_figures
from ntt_cli.pages.figures import Figure, Page, Panel, Series, Table
from ntt_cli.results import FinetuneReport, PruneReport, metric_words, shown_metric


def run_page(report: Report) -> Page:
    """What the report holds, in pictures."""
    try:
        if report.kind == "finetune report":
            return _finetuned(FinetuneReport.model_validate(report.summary))
        return _pruned(report, PruneReport.model_validate(report.summary))
    except ValidationError as error:
        raise CheckpointError(report.path, "is of another version of ntt", hint=AGAIN) from error


def _pruned(report: Report, summary: PruneReport) -> Page:
    facts = {
        "model": summary.model,
        "teacher": summary.teacher,
        "method": summary.method,
        "data": summary.data or "none",
        "kept": f"{summary.kept:,} of {summary.prunable:,} prunable weights, {summary.sparsity:.2%} sparse",
    }
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
    table = Table(
        head=("layer", "shape", "kept", "of", "density"),
        rows=tuple(
            (layer.name, "×".join(map(str, layer.shape)), f"{layer.kept:,}", f"{layer.size:,}", f"{layer.density:.2%}")
            for layer in summary.layers
        ),
        caption="Prunable weights",
    )
    return Page(summary.output, facts, (table,), tuple(_prune_figures(report, summary)))


def _prune_figures(report: Report, summary: PruneReport) -> list[Figure]:
    densities = np.array([100 * layer.density for layer in summary.layers])
    series = Series("", densities, np.arange(len(densities), dtype=np.float64))
    ticks = tuple((float(row), layer.name) for row, layer in enumerate(summary.layers))
    bars = Panel("Density by layer", "kept, %", "", (series,), form="bars", ticks=ticks)
    layers = Figure("layers", "Layers", "How much of each layer is kept.", (bars,))
    figures = [layers, *transfer_figures({"student": report})]
    panels = kernel_panels("", {"student": report})
    if panels is not None:
        figures += [Figure(*head, (panel,)) for head, panel in zip((SPECTRA, PREDICTION), panels, strict=True)]
    return figures


def _finetuned(summary: FinetuneReport) -> Page:
    facts = {
        "model": summary.model,
        "data": summary.data,
        "density": f"{summary.density:.2%}",
        "optimiser": f"{summary.optimiser}, rate {summary.learning_rate:g}",
        "chosen epoch": str(summary.best_epoch),
    }
    if summary.sizes is not None:
        facts["bytes"] = summary.sizes.in_words
    metric, value = summary.metric, summary.accuracy if summary.metric == "accuracy" else summary.value
    if metric != "accuracy":
        facts["task"] = summary.task
    if value is not None:
        facts[f"validation {metric_words(metric)}"] = shown_metric(metric, value)
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
    return Page(summary.output, facts, (), (Figure("training", "Training", caption, tuple(panels)),))

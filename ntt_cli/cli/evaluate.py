"""`ntt evaluate`."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.options import build_config, with_options
from ntt_cli.cli.render import agreement_line
from ntt_cli.cli.run import call, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.config import EvaluateConfig
from ntt_cli.results import EvaluateReport, metric_words, shown_metric

MOST_CLASSES = 20

EXAMPLES = (
    "ntt evaluate model.py --checkpoint tuned.safetensors",
    "ntt evaluate model.py -c tuned.safetensors -d test/ --min-accuracy 0.97",
    "ntt evaluate model.py -c sparse.safetensors -d images/ --teacher dense.safetensors",
    "ntt evaluate model.py -c sparse.safetensors --max-drop 0.01 --baseline dense.safetensors --junit gates.xml",
)
MOST_USED = ("checkpoint", "data", "teacher", "min_accuracy", "json")


@with_options(EvaluateConfig)
def evaluate(ctx: typer.Context, **values: Any) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    with guarded(streams, debug=values["debug"]):
        config = build_config(EvaluateConfig, ctx)
        report = call(streams, lambda on_event: ntt.evaluate(**config.given(), progress=on_event))
        streams.result(report, human=_summary(report), quiet=_main_figure(report))
        if report.missed:
            streams.fail("; ".join(report.missed))
            raise typer.Exit(1)


def _main_figure(report: EvaluateReport) -> str:
    if report.metric is not None:
        return f"{report.metrics[report.metric]:.4f}"
    assert report.agreement is not None
    choice = report.agreement.top1_agreement
    return f"{report.agreement.logit_distance if choice is None else choice:.4f}"


def _summary(report: EvaluateReport) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    if report.accuracy_by_class is not None:
        table.add_row("accuracy", Text(f"{report.accuracy:.2%}", style="bold"))
        if report.top5 is not None:
            table.add_row("top-5", f"{report.top5:.2%}")
        table.add_row("loss", f"{report.loss:.4f}")
    elif report.metric is not None:
        table.add_row("task", str(report.task))
        of_teacher = report.agreement.metrics if report.agreement else {}
        for name in sorted(report.metrics.keys() - of_teacher, key=lambda name: (name != report.metric, name)):
            style = "bold" if name == report.metric else ""
            table.add_row(metric_words(name), Text(shown_metric(name, report.metrics[name]), style=style))
    table.add_row("samples", f"{report.samples:,} of {report.data}")
    if report.density is not None:
        table.add_row("weights", f"{report.kept:,} of {report.prunable:,} prunable kept, density {report.density:.2%}")
    table.add_row("parameters", f"{report.nonzero_parameters:,} of {report.parameters:,} nonzero")
    sparse = "" if report.density is None else f"{report.flops_sparse:,} sparse, "
    table.add_row("FLOPs", f"{sparse}{report.flops_dense:,} dense, a sample")
    disk = "" if report.file_bytes is None else f", {report.file_bytes:,} on disk"
    table.add_row("bytes", f"{report.sparse_bytes:,} as values and mask bits{disk}")
    if report.baseline is not None and report.metric is not None:
        table.add_row("baseline", f"{metric_words(report.metric)} {shown_metric(report.metric, report.baseline)}")
    for gate in report.gates:
        mark = Text("passed" if gate.passed else "missed", style="green" if gate.passed else "bold red")
        table.add_row("gate", Text.assemble(mark, ": ", gate.in_words))
    parts: list[RenderableType] = [Text(report.checkpoint, style="bold"), table]
    if report.agreement is not None:
        parts.append(agreement_line(report.agreement))
    if report.accuracy_by_class is not None:
        parts += [Text(), *_classes(report.accuracy_by_class)]
    return Group(*parts)


def _classes(accuracies: dict[str, float | None]) -> list[RenderableType]:
    table = Table("class", "accuracy", box=None, header_style="bold", padding=(0, 2, 0, 0))
    shown = list(accuracies.items())
    if many := len(shown) > MOST_CLASSES:
        shown.sort(key=lambda pair: 2.0 if pair[1] is None else pair[1])
    for name, accuracy in shown[:MOST_CLASSES]:
        table.add_row(Text(name), "no samples" if accuracy is None else f"{accuracy:.2%}")
    note = Text(f"the {MOST_CLASSES} lowest of {len(shown):,} classes; --json has all", style="dim")
    return [table, note] if many else [table]

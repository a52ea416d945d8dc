"""`ntt prune`."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.next_command import has_labels, next_command
from ntt_cli.cli.options import build_config, own_flag, with_options
from ntt_cli.cli.render import agreement_line, channel_lines, kernel_line, layer_table
from ntt_cli.cli.run import call, command_line, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.config import PruneConfig
from ntt_cli.results import PrunePlan, PruneReport

EXAMPLES = (
    "ntt prune model.py --sparsity 0.95",
    "ntt prune model.py -s 0.95 --weights dense.safetensors --data images/",
    "ntt prune torchvision:resnet18 -s 0.9 -d images/ --image-size 224 --exclude conv1.weight",
)
MOST_USED = ("sparsity", "weights", "data", "method", "steps", "device", "output", "dry_run")

DRY_RUN = own_flag(
    "--dry-run", help="Show the layers, and time and memory of a run by one measured probe of each part; train nothing."
)


@with_options(PruneConfig, DRY_RUN)
def prune(ctx: typer.Context, **values: Any) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    again = None if values["dry_run"] else command_line(ctx, "--resume")
    with guarded(streams, debug=values["debug"], again=again) as stop:
        config = build_config(PruneConfig, ctx)
        given = config.given() | {"output": config.output}
        if values["dry_run"]:
            plan = call(streams, lambda on_event: ntt.prune(**given, progress=on_event, dry_run=True))
            streams.result(plan, human=_plan(plan), quiet=str(plan.kept))
            return
        report = call(streams, lambda on_event: ntt.prune(**given, progress=on_event, stop=stop)).report
        streams.result(report, human=_summary(report), quiet=report.output)
        labelled = has_labels(config.data or report.data)
        following = next_command("finetune", config, report.output, labelled=labelled)
        streams.say(f"done in {streams.seconds:.0f} s; next: {following}")


def _summary(report: PruneReport) -> RenderableType:
    head = Text.assemble(
        (report.output, "bold"), f": {report.kept:,} of {report.prunable:,} weights kept, {report.sparsity:.2%} sparse"
    )
    parts: list[RenderableType] = [head, layer_table(report.layers)]
    if report.structure:
        parts += channel_lines(report.structure)
    if report.pattern:
        parts.append(Text(f"pattern {report.pattern_in_words}"))
    if report.agreement:
        parts.append(agreement_line(report.agreement))
    if report.kernels:
        parts.append(kernel_line(report.kernels))
    if report.sizes:
        parts.append(Text(f"bytes: {report.sizes.in_words}"))
    return Group(*parts)


def _plan(plan: PrunePlan) -> RenderableType:
    head = f"{plan.model}: would keep {plan.kept:,} of {plan.prunable:,} weights, nothing trained"
    parts: list[RenderableType] = [Text(head, style="bold"), layer_table(plan.layers)]
    if plan.peak_memory_bytes is not None and plan.memory_bytes is not None:
        memory = f"peak memory {plan.peak_memory_bytes / 2**20:,.0f} MiB of {plan.memory_bytes / 2**20:,.0f}"
        parts.append(Text(f"{memory}, which will not fit: {plan.advice}" if plan.advice else memory))
    if plan.estimated_seconds is not None:
        took = f"{'at most' if plan.auto else 'about'} {plan.estimated_seconds:,.0f} s"
        if plan.seconds_per_step is not None:
            took += f", with {plan.steps:,} steps of {plan.seconds_per_step * 1e3:.1f} ms"
        parts.append(Text(took))
    return Group(*parts)

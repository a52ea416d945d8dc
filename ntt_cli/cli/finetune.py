"""`ntt finetune`."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import RenderableType
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.next_command import next_command
from ntt_cli.cli.options import build_config, with_options
from ntt_cli.cli.run import call, command_line, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.config import FinetuneConfig
from ntt_cli.results import FinetuneReport, metric_words, shown_metric

EXAMPLES = (
    "ntt finetune model.py --checkpoint sparse.safetensors",
    "ntt finetune model.py -c sparse.safetensors -d train/ --epochs 30 --optimiser sgd",
    "ntt finetune model.py --output dense.safetensors",
)
MOST_USED = ("checkpoint", "data", "epochs", "learning_rate", "device", "output")


@with_options(FinetuneConfig)
def finetune(ctx: typer.Context, **values: Any) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    with guarded(streams, debug=values["debug"], again=command_line(ctx, "--resume")) as stop:
        config = build_config(FinetuneConfig, ctx)
        given = config.given() | {"output": config.named_output}
        report = call(streams, lambda on_event: ntt.finetune(**given, progress=on_event, stop=stop)).report
        streams.result(report, human=_summary(report), quiet=report.output)
        following = next_command("evaluate", config, report.output, labelled=report.divided)
        streams.say(f"done in {streams.seconds:.0f} s; next: {following}")


def _summary(report: FinetuneReport) -> RenderableType:
    metric = "" if report.metric == "accuracy" else f"{metric_words(report.metric)} "
    value = "" if report.value is None else f", {metric}{shown_metric(report.metric, report.value)}"
    validated = f"{value} on the validation split" if value else ""
    return Text.assemble(
        (report.output, "bold"),
        f": density {report.density:.2%}, epoch {report.best_epoch} of {len(report.epochs)}{validated}"
        f" ({report.optimiser}, rate {report.learning_rate:.2g})",
    )

"""`ntt finetune`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.next_command import next_command
from ntt_cli.cli.options import COMMON, build_config, common_of, options_of, with_parameters
from ntt_cli.cli.progress import progress
from ntt_cli.cli.run import call, command_line, guarded
from ntt_cli.config import FinetuneConfig

if TYPE_CHECKING:
    from ntt_cli.results import FinetuneReport

EXAMPLES = """Examples:

  ntt finetune model.py --checkpoint sparse.safetensors

  ntt finetune model.py -c sparse.safetensors -d train/ --epochs 30 --optimiser sgd

  ntt finetune model.py --output dense.safetensors
"""


def command() -> Callable[..., None]:
    """The command with its options."""
    return with_parameters(finetune, [*options_of(FinetuneConfig), *COMMON])


def finetune(ctx: typer.Context, **values: Any) -> None:
    common = common_of(values)
    with guarded(common.streams, debug=common.debug, again=command_line(ctx, "--resume")) as stop:
        config = build_config(FinetuneConfig, ctx, common.config)

        begun = time.monotonic()
        with progress(common.streams) as on_event:
            given = config.given() | {"output": config.named_output}
            report = call(lambda: ntt.finetune(**given, progress=on_event, stop=stop)).report
        common.streams.result(report, human=_summary(report), quiet=report.output)
        following = next_command("evaluate", config, report.output)
        common.streams.say(f"done in {time.monotonic() - begun:.0f} s; next: {following}")


def _summary(report: FinetuneReport) -> RenderableType:
    accuracy = f", {report.accuracy:.2%} on the validation split" if report.accuracy is not None else ""
    return Text.assemble(
        (report.output, "bold"),
        f": density {report.density:.2%}, epoch {report.best_epoch} of {len(report.epochs)}{accuracy}"
        f" ({report.optimiser}, rate {report.learning_rate:.2g})",
    )

"""`ntt export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.options import with_common
from ntt_cli.cli.run import call, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.results import ExportReport

EXAMPLES = (
    "ntt export sparse.safetensors --to packed",
    "ntt export sparse.safetensors --to torch",
    "ntt export tuned.safetensors --to packed --dtype float16 -o small.safetensors",
)


@with_common
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="The checkpoint: a .safetensors or .pt file, or a folder with one.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="<packed|torch>",
            show_default=False,
            help="packed: mask bits and kept values, compressed; every command takes it as it is."
            " torch: NAME_orig and NAME_mask, as torch.nn.utils.prune has them. Required.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write. Default: NAME.FORM.safetensors beside NAME."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="<float16|bfloat16>", help="Round weights to this type. Default: their own."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")] = False,
    **values: Any,
) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    with guarded(streams, debug=values["debug"]):
        report = call(
            streams,
            lambda on_event: ntt.export(checkpoint, to=to, output=output, dtype=dtype, force=force, progress=on_event),
        )
        streams.result(report, human=_summary(report), quiet=report.output)


def _summary(report: ExportReport) -> Text:
    of = f"1/{report.dense_bytes / report.bytes:.1f} of" if report.bytes < report.dense_bytes else "for"
    sizes = f": {report.bytes:,} bytes, {of} {report.dense_bytes:,} dense"
    return Text.assemble((report.output, "bold"), sizes, f"\nSHA-256 {report.sha256}")

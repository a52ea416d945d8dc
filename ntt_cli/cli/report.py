"""`ntt report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.run import guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.results import PageReport

EXAMPLES = ("ntt report comparison/", "ntt report sparse.safetensors --png")


def report(
    path: Annotated[Path, typer.Argument(help="A comparison's folder, a report, or the checkpoint beside it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="<path>",
            help="The page. Default: report.html in the folder, or beside the report.",
        ),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write each figure as a picture too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is not such a page.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the page's path alone.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    streams = make_streams(as_json=as_json, quiet=quiet)
    with guarded(streams, debug=debug):
        written = ntt.report(path, output=output, png=png, force=force)
        streams.result(written, human=_summary(written), quiet=written.output)


def _summary(written: PageReport) -> Text:
    figures = ", ".join(written.figures)
    text = Text.assemble((written.output, "bold"), f": {written.bytes:,} bytes, with figures of {figures}")
    for picture in written.pictures:
        text.append(f"\n{picture}")
    return text

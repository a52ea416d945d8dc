"""`ntt verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.run import guarded
from ntt_cli.cli.streams import make_streams

EXAMPLES = ("ntt verify sparse.safetensors", "ntt verify sparse.report.safetensors --json")


def verify(
    file: Annotated[Path, typer.Argument(help="A checkpoint or a report.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the path alone.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    streams = make_streams(as_json=as_json, quiet=quiet)
    with guarded(streams, debug=debug):
        found = ntt.verify(file)
        by = "export" if found.kind == "packed" else found.kind
        gone = "" if found.channels is None else f"; {found.channels:,} channels are gone, each zero as a whole"
        held = "".join(f"; {pattern} in all of {count:,} groups" for pattern, count in found.groups.items())
        human = Text.assemble(
            (found.file, "bold"), f": whole; {found.tensor_count} tensors, written by ntt {by}{gone}{held}"
        )
        streams.result(found, human=human, quiet=str(file))

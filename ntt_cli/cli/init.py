"""`ntt init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.run import guarded
from ntt_cli.cli.streams import make_streams

EXAMPLES = ("ntt init", "ntt init nets/small.py")


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("model.py"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the path alone.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    streams = make_streams(as_json=as_json, quiet=quiet)
    with guarded(streams, debug=debug):
        written = ntt.init(path, force=force)
        streams.result(written, human=Text(written.output), quiet=written.output)
        streams.say(f"next: {shlex.join(['ntt', 'prune', written.output, '--sparsity', '0.9'])}")

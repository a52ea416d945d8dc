"""`ntt init`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ntt_cli.cli.run import guarded
from ntt_cli.cli.streams import make_streams

EXAMPLES = """Examples:

  ntt init

  ntt init nets/small.py
"""


def command() -> Callable[..., None]:
    """The command with its options."""
    return init


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("model.py"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    streams = make_streams(as_json=False, quiet=False)
    with guarded(streams, debug=False):
        from ntt_cli.workflows import init as workflow

        written = workflow.run(path, force=force)
        streams.out.file.write(f"{written}\n")
        streams.say(f"next: {shlex.join(['ntt', 'prune', str(written), '--sparsity', '0.9'])}")

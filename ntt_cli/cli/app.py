"""The `ntt` command: one file a command, imported without torch so that `--help` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from ntt_cli import __version__
from ntt_cli.cli import evaluate, finetune, init, inspect, prune

app = typer.Typer(
    name="ntt",
    help="Make neural networks sparse without labels, by Neural Tangent Transfer.",
    epilog="Start with: ntt init && ntt prune model.py --sparsity 0.9",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (prune, finetune, evaluate, inspect, init):
    command.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ntt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make neural networks sparse without labels, by Neural Tangent Transfer."""


def main() -> None:
    """Run the command line."""
    app()

"""The `ntt` command. Only the command that runs is loaded, so that `ntt --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from ntt_cli import __version__
from ntt_cli.runtime.signals import leaving

BAD_USAGE: type[Exception] = typer.BadParameter.__bases__[0]
"""The parser's own error; typer exports some of its kinds alone."""

COMMANDS = {
    "prune": "Find a sparse network, without labels.",
    "finetune": "Train a sparse network on labels, its zeros held; without --checkpoint, a dense one.",
    "evaluate": "Measure accuracy, agreement with a teacher, FLOPs and size.",
    "compare": "Compare methods, sparsities and seeds under one budget; goes on where it was.",
    "report": "Show a run or a comparison as one HTML page with plots.",
    "inspect": "Show what a checkpoint or report says about itself; runs no code but ntt's own.",
    "verify": "Check that no bit of a checkpoint or report has changed; runs no code but ntt's own.",
    "init": "Write a commented model.py to start from.",
}

SPINS = "1000"
"""How often a thread of torch looks whether the others are done before it sleeps. libgomp takes this where it knows of
more threads than processors, but it does not know of other programs, and else looks 300,000 times: on a busy machine
threads that wait then hold the processors which those at work are waiting for (`benchmarks/busy_machine.py`)."""


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """The application for these arguments: the command they name in full, the others by name alone."""
    app = typer.Typer(
        name="ntt",
        help="Make neural networks sparse without labels, by Neural Tangent Transfer.",
        epilog="Start with: ntt init && ntt prune model.py --sparsity 0.9",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    named = _named(arguments)
    completing = "_NTT_COMPLETE" in os.environ  # then the shell gives the words elsewhere
    for name, summary in COMMANDS.items():
        if name in named or completing:
            module = import_module(f"ntt_cli.cli.{name}")
            app.command(name, help=f"{summary}\n\n{module.EXAMPLES}")(module.command())
        else:
            app.command(name, help=summary)(_not_loaded)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        SystemExit: with the exit code, always.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # libgomp reads it when torch is imported
    with leaving():
        try:
            code = make_app(given)(given, prog_name="ntt", obj=given, standalone_mode=False)
        except BAD_USAGE as error:
            from ntt_cli.cli.bad_usage import tell_bad_usage  # imports the options, which `ntt --help` does not need

            code = tell_bad_usage(error, " ".join(["ntt", *_named(given)]))
        except SystemExit as exit:
            # Rich and typer end so where nobody reads the help to its end. That is no failure.
            code = exit.code if "_NTT_COMPLETE" in os.environ else 0
    raise SystemExit(code or 0)


def _named(arguments: Sequence[str]) -> list[str]:
    """The command that they name, if they do."""
    return [argument for argument in arguments if argument in COMMANDS][:1]


def _not_loaded() -> None:
    """A command that these arguments do not name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ntt {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make neural networks sparse without labels, by Neural Tangent Transfer."""

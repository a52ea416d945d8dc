"""The `ntt` command. Only the command that runs is imported, so that `ntt --help` is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from ntt_cli import __version__
from ntt_cli.cli.help import Command, Group
from ntt_cli.runtime.signals import leaving

BAD_USAGE: type[Exception] = typer.BadParameter.__bases__[0]
"""The parser's own error; typer exports some of its kinds alone."""

COMMANDS = {
    "prune": "Find a sparse network, without labels.",
    "finetune": "Train a sparse network on labels, its zeros fixed; without --checkpoint, a dense one.",
    "evaluate": "Measure accuracy, agreement with a teacher, FLOPs and size.",
    "compare": "Compare methods, sparsities and seeds under one budget; a repeated command goes on.",
    "report": "Show a run or a comparison as one HTML page with plots.",
    "inspect": "Show what a checkpoint or report says about itself; runs no code but ntt's own.",
    "verify": "Check that no bit of a checkpoint or report has changed; runs no code but ntt's own.",
    "export": "Write a checkpoint in another form: packed, without its zeros; or as a program, pt2 or ONNX.",
    "bench": "Measure bytes, FLOPs and times of a sparse network in each form, beside the dense one.",
    "init": "Write a commented model.py to start from.",
}

SPINS = "1000"
"""How often a thread of torch checks whether the others are done before it sleeps. libgomp uses this number if it has
more threads than processors. Otherwise it checks 300,000 times, because it does not know of other programs. On a busy
machine, waiting threads then occupy the processors that working threads need (`benchmarks/busy_machine.py`)."""


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """The application for these arguments. Only the command that they name has its options; others have only names."""
    app = typer.Typer(
        name="ntt",
        cls=Group,
        help="Make neural networks sparse without labels, by Neural Tangent Transfer.",
        epilog="Start with: ntt init && ntt prune model.py --sparsity 0.9",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    named = _named(arguments)
    completing = "_NTT_COMPLETE" in os.environ  # for completion, the shell passes the words in another variable
    for name, summary in COMMANDS.items():
        if name in named or completing:
            module = import_module(f"ntt_cli.cli.{name}")
            app.command(name, cls=Command, help=summary)(getattr(module, name))
        else:
            app.command(name, help=summary)(_not_loaded)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        SystemExit: with the exit code, always.
    """
    given = _with_help_as_an_option(sys.argv[1:] if arguments is None else list(arguments))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # libgomp reads it when torch is imported
    with leaving():
        try:
            code = make_app(given)(given, prog_name="ntt", obj=given, standalone_mode=False)
        except BAD_USAGE as error:
            from ntt_cli.cli.bad_usage import tell_bad_usage  # imports the options, which `ntt --help` does not need

            code = tell_bad_usage(error, " ".join(["ntt", *_named(given)]), as_json="--json" in given)
        except SystemExit as exit:
            # Rich and typer exit so if the reader of the help closes its pipe. That is not a failure.
            code = exit.code if "_NTT_COMPLETE" in os.environ else 0
    raise SystemExit(code or 0)


def _with_help_as_an_option(arguments: list[str]) -> list[str]:
    """`ntt help prune` is `ntt prune --help`, and `ntt help` is `ntt --help`."""
    return [*arguments[1:], "--help"] if arguments[:1] == ["help"] else arguments


def _named(arguments: Sequence[str]) -> list[str]:
    """The command that the arguments name, if there is one."""
    return [argument for argument in arguments if argument in COMMANDS][:1]


def _not_loaded() -> None:
    """Stands for a command that the arguments do not name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ntt {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `ntt` without a command."""

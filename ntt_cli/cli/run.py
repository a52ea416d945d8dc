"""What every command shares: errors become exit codes, stray prints go to stderr, signals end cleanly."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator
from typing import TypeVar

import typer

from ntt_cli.cli.streams import NobodyReads, Streams
from ntt_cli.errors import INTERNAL_ERROR, NttError
from ntt_cli.runtime.signals import Interrupted, Stop, handle_signals, reraise_as_interrupt

NOBODY_READS = 128 + signal.SIGPIPE
"""As a shell says it of a program that a closed pipe ended."""


@contextlib.contextmanager
def guarded(streams: Streams, *, debug: bool, again: str | None = None) -> Generator[Stop]:
    """Run a command's work: what goes wrong is told on stderr and becomes the designed exit code.

    The model's and the data's code may print; that goes to stderr, so that stdout holds the result alone.

    Args:
        streams: where it is told.
        debug: with tracebacks.
        again: the command that goes on after an interruption.

    Yields:
        whether SIGINT or SIGTERM asked for the end.

    Raises:
        typer.Exit: with the exit code of what went wrong.
        typer.Abort: as it was.
    """
    stop = Stop()
    with handle_signals(stop):
        try:
            with reraise_as_interrupt(stop), warnings.catch_warnings():
                if not debug:
                    # torch deprecates parts of itself that it still calls; its users can do nothing about it.
                    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
                yield stop
            return
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:  # a network may raise SystemExit and GeneratorExit, too
            code = _tell(streams, _followed(error, stop), debug=debug, again=again)
    # Not from the error: `contextmanager` takes a RuntimeError, which Exit is, from a StopIteration for that one.
    raise typer.Exit(code)


def _followed(error: BaseException, stop: Stop) -> BaseException:
    """The error, or the interruption that code answered with `sys.exit`."""
    if stop.asked is None or isinstance(error, Exception | KeyboardInterrupt):
        return error
    return Interrupted(stop.asked)


def _tell(streams: Streams, error: BaseException, *, debug: bool, again: str | None) -> int:
    """Say on stderr what ended the command, and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return _tell_interruption(streams, error, again)
    if isinstance(error, NobodyReads):
        _leave_the_pipe()
        return NOBODY_READS
    if debug:
        streams.err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
    if isinstance(error, NttError):
        streams.error(error)
        return error.exit_code
    return _tell_unexpected(streams, error)


def _tell_interruption(streams: Streams, error: KeyboardInterrupt, again: str | None) -> int:
    interruption = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
    word = "terminated" if interruption.number == signal.SIGTERM else "interrupted"
    streams.warn(f"{word}; {interruption.kept}")
    if again is not None and not streams.speaker:
        streams.hint(f"go on with: {again}")
    return 128 + interruption.number


def _tell_unexpected(streams: Streams, error: BaseException) -> int:
    from ntt_cli.runtime.python_source import blame, said_by  # imports torch, which takes seconds

    if (blamed := blame(error)) is not None:
        streams.error(blamed)
        return blamed.exit_code
    streams.err.print(
        f"internal error: {type(error).__name__}: {said_by(error)}\n"
        "hint: this is a bug in ntt; run again with --debug and report what it prints",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return INTERNAL_ERROR


def command_line(context: typer.Context, *more: str) -> str:
    """The command as it was typed, with these options where it had none of them."""
    given: list[str] = context.obj
    program = "torchrun … -m ntt_cli" if "WORLD_SIZE" in os.environ else "ntt"
    return f"{program} {shlex.join([*given, *(option for option in more if option not in given)])}"


Result = TypeVar("Result")


def call(work: Callable[[], Result]) -> Result:
    """Do the work with stdout kept for the result."""
    with contextlib.redirect_stdout(sys.stderr), _descriptor_kept():
        return work()


@contextlib.contextmanager
def _descriptor_kept() -> Generator[None]:
    # Compiled code and other processes write to descriptor 1, past `sys.stdout`.
    try:
        stdout = os.dup(1)
    except OSError:  # it is closed, so that nobody reads it
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C's own buffer still holds
        os.dup2(stdout, 1)
        os.close(stdout)


def _leave_the_pipe() -> None:
    # Python flushes stdout once more when it ends, and would complain about the closed pipe there.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.close()

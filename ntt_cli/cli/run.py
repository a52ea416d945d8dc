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

from ntt_cli.cli.progress import progress
from ntt_cli.cli.streams import NobodyReads, Streams
from ntt_cli.errors import INTERNAL_ERROR, NttError
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.signals import Interrupted, Stop, handle_signals, reraise_as_interrupt


@contextlib.contextmanager
def guarded(streams: Streams, *, debug: bool, again: str | None = None) -> Generator[Stop]:
    """Run a command's work. Errors are reported on stderr, with `debug` as tracebacks, and become exit codes.

    Yields:
        whether SIGINT or SIGTERM asked for the end; `again` is the command that goes on after that.

    Raises:
        typer.Exit: with the exit code of the error.
        typer.Abort: unchanged.
    """
    stop = Stop()
    with handle_signals(stop):
        try:
            with reraise_as_interrupt(stop), warnings.catch_warnings():
                if not debug:
                    # torch calls parts of itself that it has deprecated; its users cannot change that.
                    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
                yield stop
            return
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:  # a network may raise SystemExit and GeneratorExit, too
            code = _tell(streams, _followed(error, stop), debug=debug, again=again)
    # Without a cause: Exit is a RuntimeError, and `contextmanager` mistakes one with a StopIteration as its cause.
    raise typer.Exit(code)


def _followed(error: BaseException, stop: Stop) -> BaseException:
    """The error, or the interruption to which code responded with `sys.exit`."""
    if stop.asked is None or isinstance(error, Exception | KeyboardInterrupt):
        return error
    return Interrupted(stop.asked)


def _tell(streams: Streams, error: BaseException, *, debug: bool, again: str | None) -> int:
    """Report on stderr what ended the command, and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return _tell_interruption(streams, error, again)
    if isinstance(error, NobodyReads):
        return 128 + signal.SIGPIPE  # as a shell reports a program that a closed pipe ended
    if debug:
        streams.err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
    if isinstance(error, NttError):
        return tell_error(streams, error)
    return _tell_unexpected(streams, error)


def _tell_interruption(streams: Streams, error: KeyboardInterrupt, again: str | None) -> int:
    interruption = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
    word = "terminated" if interruption.number == signal.SIGTERM else "interrupted"
    what, hint = f"{word}; {interruption.kept}", "" if again is None else f"go on with: {again}"
    streams.warn(what)
    if hint and not streams.speaker:
        streams.hint(hint)
    code = 128 + interruption.number
    streams.ended(signal.Signals(interruption.number).name, what, hint=hint, exit_code=code)
    return code


def tell_error(streams: Streams, error: NttError) -> int:
    """Report an error that the user can act on, and return its exit code."""
    streams.error(error)
    streams.ended(error.where, error.what, hint=error.hint, exit_code=error.exit_code)
    return error.exit_code


def _tell_unexpected(streams: Streams, error: BaseException) -> int:
    from ntt_cli.runtime.python_source import blame, said_by  # imports torch, which takes seconds

    if (blamed := blame(error)) is not None:
        return tell_error(streams, blamed)
    what = f"internal error: {type(error).__name__}: {said_by(error)}"
    hint = "this is a bug in ntt; run again with --debug and report what it prints"
    streams.err.print(f"{what}\nhint: {hint}", markup=False, highlight=False, soft_wrap=True)
    streams.ended("ntt", what, hint=hint, exit_code=INTERNAL_ERROR)
    return INTERNAL_ERROR


def command_line(context: typer.Context, *more: str) -> str:
    """The command as it was typed, with these options where it had none of them."""
    given: list[str] = context.obj
    program = "torchrun … -m ntt_cli" if "WORLD_SIZE" in os.environ else "ntt"
    return f"{program} {shlex.join([*given, *(option for option in more if option not in given)])}"


Result = TypeVar("Result")


def call(streams: Streams, work: Callable[[EventSink], Result]) -> Result:
    """Do the work, which shows its progress, with stdout reserved for the result."""
    with progress(streams) as on_event, contextlib.redirect_stdout(sys.stderr), _descriptor_kept():
        return work(on_event)


@contextlib.contextmanager
def _descriptor_kept() -> Generator[None]:
    # Compiled code and other processes write to descriptor 1, past `sys.stdout`.
    try:
        stdout = os.dup(1)
    except OSError:  # stdout is closed, so nobody reads it
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's own buffer
        os.dup2(stdout, 1)
        os.close(stdout)

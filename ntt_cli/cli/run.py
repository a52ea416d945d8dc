"""What every command shares: errors become exit codes, stray prints go to stderr, signals end cleanly."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator
from types import FrameType
from typing import NoReturn, TypeVar

import typer

from ntt_cli.cli.streams import Streams
from ntt_cli.errors import NttError

INTERNAL_ERROR = 70


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, no `except Exception` of user code may swallow it."""


@contextlib.contextmanager
def guarded(streams: Streams, *, debug: bool) -> Generator[None]:
    """Run a command's work: what goes wrong is told on stderr and becomes the designed exit code.

    The model's and the data's code may print; that goes to stderr, so that stdout holds the result alone.

    Yields:
        nothing.

    Raises:
        typer.Exit: with the exit code of what went wrong.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            if not debug:
                # torch deprecates parts of itself that it still calls; its users can do nothing about it.
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
            yield
    except typer.Exit:
        raise
    except NttError as error:
        if debug:
            streams.err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        streams.error(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        streams.warn("interrupted; no file is half-written")
        raise typer.Exit(130) from error
    except Terminated as error:
        streams.warn("terminated; no file is half-written")
        raise typer.Exit(143) from error
    except BrokenPipeError as error:
        _leave_the_pipe()
        raise typer.Exit(1) from error
    except Exception as error:
        _internal_error(streams, error, debug=debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


Result = TypeVar("Result")


def call(work: Callable[[], Result]) -> Result:
    """Do the work with stdout kept for the result."""
    with contextlib.redirect_stdout(sys.stderr):
        return work()


def _internal_error(streams: Streams, error: Exception, *, debug: bool) -> NoReturn:
    if debug:
        streams.err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
    streams.err.print(
        f"internal error: {type(error).__name__}: {error}\n"
        "hint: this is a bug in ntt; run again with --debug and report what it prints",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(INTERNAL_ERROR) from error


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _leave_the_pipe() -> None:
    # Python flushes stdout once more when it ends, and would complain about the closed pipe there.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.close()

"""SIGINT and SIGTERM: requests to end. Work that can save its state checks for them itself. Needs no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from types import FrameType

from ntt_cli.errors import DivergedError, OutputError

GRACE_SECONDS = 7.0
"""Time for the step to end and its state to be saved; after that, the work is interrupted wherever it is."""

SHOW_CURSOR = "\x1b[?25h\n"


class Interrupted(KeyboardInterrupt):
    """The run was asked to end. A KeyboardInterrupt, so that no `except Exception` in user code catches it.

    `kept` is what is left of the run on disk, in words.
    """

    def __init__(self, number: int, kept: str = "no file is half-written") -> None:
        super().__init__(number, kept)
        self.number, self.kept = number, kept


@dataclass
class Stop:
    """Whether the work was asked to end.

    Attributes:
        asked: the signal that asked for the end; `None` if none did.
        patient: the work checks `asked` itself, so that the signal need not interrupt it.
    """

    asked: int | None = None
    patient: bool = False

    @contextlib.contextmanager
    def patiently(self) -> Generator[None]:
        """A context for work that checks `asked` after each step.

        Raises:
            Interrupted: at the end, if a request came after the last check.
        """
        self.patient = True
        try:
            yield
        finally:
            self.patient = False
        if self.asked is not None:
            raise Interrupted(self.asked)

    def follow_request(self) -> int | None:
        """The signal that asked for the end, or `None`. If there is one, the caller ends the work uninterrupted."""
        if self.asked is not None:
            self.patient = False
        return self.asked


@contextlib.contextmanager
def reraise_as_interrupt(stop: Stop) -> Generator[None]:
    """Raise `Interrupted` in place of the error that torch or a user's code raises when it is interrupted."""
    try:
        yield
    except (OutputError, DivergedError):  # the state cannot be saved, or is worthless
        raise
    except Exception as error:
        if stop.asked is None:
            raise
        raise Interrupted(stop.asked) from error


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handle_signals(stop: Stop, numbers: Iterable[signal.Signals] = SIGNALS) -> Generator[None]:
    """Let these signals ask for the end. A second signal ends the process at once. Only for the main thread."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.asked is not None:
            _leave(number)
        stop.asked = number
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        if not stop.patient:
            raise Interrupted(number)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if stop.patient and stop.asked is not None:
            raise Interrupted(stop.asked)

    with _handled(numbers, ask), _handled([signal.SIGALRM], interrupt):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def leaving() -> Generator[None]:
    """While there is nothing to save yet, or nothing left to save: a signal ends the process at once."""
    with _handled(SIGNALS, lambda number, _: _leave(number)):
        yield


@contextlib.contextmanager
def _handled(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    # An ignored signal stays ignored: a shell starts background jobs with SIGINT ignored.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _leave(number: int) -> None:
    # No destructors and no handlers are needed: files are always complete, and locks end with the process.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())
    os._exit(128 + number)

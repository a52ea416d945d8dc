"""SIGINT and SIGTERM: a request to end, which work that can save itself first looks for. Needs no torch."""

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
"""For a step to end and its state to be saved, before the work is interrupted wherever it is."""

SHOW_CURSOR = "\x1b[?25h\n"


class Interrupted(KeyboardInterrupt):
    """The run was asked to end. Like KeyboardInterrupt, no `except Exception` of user code may swallow it.

    Attributes:
        number: of the signal.
        kept: what there is of the run now.
    """

    def __init__(self, number: int, kept: str = "no file is half-written") -> None:
        super().__init__(number, kept)
        self.number = number
        self.kept = kept


@dataclass
class Stop:
    """Whether the work was asked to end.

    Attributes:
        asked: by this signal; `None` if it was not.
        patient: the work looks at `asked` by itself, so that it need not be interrupted.
    """

    asked: int | None = None
    patient: bool = False

    @contextlib.contextmanager
    def patiently(self) -> Generator[None]:
        """While work lasts that looks at `asked` after each step.

        Yields:
            nothing.

        Raises:
            Interrupted: at the end, if a request came after the last look.
        """
        self.patient = True
        try:
            yield
        finally:
            self.patient = False
        if self.asked is not None:
            raise Interrupted(self.asked)

    def look(self) -> int | None:
        """The signal that asks for the end; it is being followed then, and nothing will interrupt that."""
        if self.asked is not None:
            self.patient = False
        return self.asked


@contextlib.contextmanager
def reraise_as_interrupt(stop: Stop) -> Generator[None]:
    """An error of code that was interrupted is taken for the interruption.

    torch, or a user's code, may raise another error while it cleans up.

    Yields:
        nothing.

    Raises:
        Interrupted: if the run was asked to end before something went wrong.
        OutputError: as it was: the state cannot be saved.
        DivergedError: as it was: the state is worth nothing.
        Exception: what went wrong in a run that was not asked to end.
    """
    try:
        yield
    except (OutputError, DivergedError):
        raise
    except Exception as error:
        if stop.asked is None:
            raise
        raise Interrupted(stop.asked) from error


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handle_signals(stop: Stop, numbers: Iterable[signal.Signals] = SIGNALS) -> Generator[None]:
    """Let these signals ask for the end: the first one politely, the second at once. For the main thread alone.

    Yields:
        nothing.
    """

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
    """While there is nothing to save yet, or any more: a signal ends the process at once.

    Yields:
        nothing.
    """
    with _handled(SIGNALS, lambda number, _: _leave(number)):
        yield


@contextlib.contextmanager
def _handled(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    # One that is ignored stays so: a shell starts background jobs with the interrupt ignored.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _leave(number: int) -> None:
    # No destructors, no handlers: files are whole at every moment, and locks die with the process.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())
    os._exit(128 + number)

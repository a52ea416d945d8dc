"""Every error that a user can act on: what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

INTERNAL_ERROR = 70
"""The exit code for an error that is none of these."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class NttError(Exception):
    """An error with a remedy. `cli/` turns it into one message and `exit_code`; nothing else prints.

    Args:
        where: what the error is about, as the user named it: a file, an option, a layer.
        what: what was wrong with it.
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, where: str | Path, what: str, *, hint: str) -> None:
        super().__init__(where, what)
        self.where = str(where)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"

    def __reduce__(self) -> tuple[partial[Self], tuple[()]]:
        """So that a process of a pool can hand the error on: `hint` is not among the `args` that pickle keeps."""
        return partial(type(self), self.where, self.what, hint=self.hint), ()


@contextmanager
def os_error_as(error: type[NttError], where: str | Path, what: str, *, hint: str) -> Generator[None]:
    """An `OSError` in the body of the `with` becomes this error, which adds the reason that the system gives."""
    try:
        yield
    except OSError as failure:
        raise error(where, f"{what}: {failure.strerror or failure}", hint=hint) from failure


class UsageError(NttError):
    """An option, argument or configuration key is wrong."""


class ModelError(NttError):
    """The model cannot be built, run or pruned."""


class DataError(NttError):
    """The data cannot be found, read or used."""


class CheckpointError(NttError):
    """A checkpoint or report cannot be read, or belongs to another model."""


class ResumeError(NttError):
    """A run cannot go on from the state that was left for it."""


class OutputError(NttError):
    """The result cannot be written where it was asked for."""


class DivergedError(NttError):
    """The numbers stopped being finite."""

    exit_code = 3


class LostError(NttError):
    """Another process of the same run has ended."""

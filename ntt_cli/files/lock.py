"""One run at a time for an output: a lock of the operating system, which dies with its holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import ELSEWHERE

PATIENCE_SECONDS = 1.0
"""How long to wait for the holder of a lock to write who it is."""

SAYS = "pid "
"""What the text of a lock begins with."""

LONGEST = 1000
"""The most bytes that a lock's text has; a longer file is not a lock."""

NO_LOCK = "is in the place of a lock, and is none: a link, a folder, a device or somebody's file"
REMEDY = f"find out who made it, and remove it; or {ELSEWHERE}"

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of file systems without locks, such as those of some clusters."""


@contextlib.contextmanager
def locked(output: Path) -> Generator[bool]:
    """Lock the output. The lock is the file `.OUT.lock` beside it, whose text says who holds it.

    Yields:
        whether the output is locked: `False` on a file system without locks.

    Raises:
        OutputError: if another run holds it, or the lock cannot be made.
    """
    path = lock_path(output)
    try:
        number = _acquire(path, output)
    except OSError as error:
        if error.errno in NO_LOCKS:
            path.unlink(missing_ok=True)
            yield False
            return
        hint = f"remove it if no run is at work there, or {ELSEWHERE}"
        raise OutputError(path, f"cannot be locked: {error.strerror}", hint=hint) from error
    try:
        yield True
    finally:
        # Remove the file before the lock is released: afterwards it may be another run's.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(number)


def lock_path(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _acquire(path: Path, output: Path) -> int:
    while True:
        with contextlib.ExitStack() as otherwise:
            number = _open(path)
            otherwise.callback(os.close, number)
            _require_lock(path, number)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                hint = "wait for it, or name another file with --output"
                raise OutputError(output, f"another run is at work on it: {_holder(number)}", hint=hint) from error
            if _is_at(path, number):  # if not, the holder removed the file after we had opened it
                since = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
                os.ftruncate(number, 0)
                os.pwrite(number, f"{SAYS}{os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
                otherwise.pop_all()
                return number


def _open(path: Path) -> int:
    # Open or create the lock's file. Anyone who can write to the folder may have put something else there.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise OutputError(path, NO_LOCK, hint=REMEDY) from error
        raise


def _require_lock(path: Path, number: int) -> None:
    # Refuse a file that is not a lock of ntt's, before any byte of it is changed.
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_size > LONGEST:
        raise OutputError(path, NO_LOCK, hint=REMEDY)
    text = os.pread(number, LONGEST, 0).strip(b"\0")  # a power cut may leave zero bytes instead of the text
    if not text.startswith(SAYS.encode()[: len(text)]):
        raise OutputError(path, NO_LOCK, hint=REMEDY)


def _is_at(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(number))
    except FileNotFoundError:
        return False


def _holder(number: int) -> str:
    until = time.monotonic() + PATIENCE_SECONDS
    while not (words := os.pread(number, LONGEST, 0)) and time.monotonic() < until:
        time.sleep(0.01)
    return words.decode(errors="replace") or "it has not said which"

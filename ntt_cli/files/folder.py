"""Folders that are written as a whole: beside their name first."""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ntt_cli.errors import OutputError, os_error_as
from ntt_cli.files.atomic import HOUR, check_writable, is_temporary, temporary_beside


def check_new_folder(path: Path) -> None:
    """Refuse a name that no folder can be written under, before any work is done for it."""
    if path.exists() and not path.is_dir():
        raise OutputError(path, "exists already, and is no folder", hint="name another with --output")
    check_writable(path, force=False)


@contextmanager
def temporary_folder(path: Path) -> Generator[Path]:
    """An empty folder beside `path` to write into, removed afterwards unless it was renamed.

    What killed runs left beside `path` an hour ago or more goes first. What the file system refuses in the body of the
    `with` is an `OutputError` too.

    Yields:
        the folder.
    """
    _remove_abandoned(path)
    made = temporary_beside(path)
    try:
        with os_error_as(OutputError, path, "cannot be written", hint="name a folder elsewhere with --output"):
            made.mkdir()
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def replace_folder(made: Path, path: Path) -> None:
    """Give a folder the name `path`. One that has it goes as a whole, after the new one is there."""
    if not path.exists():
        made.replace(path)
        return
    before = temporary_beside(path)
    path.replace(before)
    try:
        made.replace(path)
    except OSError:
        before.replace(path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def files_of(folder: Path) -> dict[str, int]:
    """The bytes of each file, by its place in the folder."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {place: found[place].stat().st_size for place in sorted(found)}


def _remove_abandoned(path: Path) -> None:
    for entry in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_temporary(entry, path) and entry.is_dir() and time.time() - entry.stat().st_mtime >= HOUR:
            shutil.rmtree(entry, ignore_errors=True)

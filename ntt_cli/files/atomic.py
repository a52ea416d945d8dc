"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from ntt_cli.errors import NttError, OutputError, os_error_as

ELSEWHERE = "name a file elsewhere with --output"
HOUR = 3600.0
"""Seconds after which a temporary file counts as abandoned where there is no lock."""

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
"""Errors of file systems that cannot flush to disk, such as some network file systems."""

_TEMPORARY = re.compile(r"\d+(\.[0-9a-f]{8})?\.tmp")
"""The end of a temporary file's name: the process id, for people, and random digits that make the name unique."""


def require_text(name: str | Path, error: type[NttError]) -> None:
    """Refuse a name whose bytes are not text, before any work: no record could hold it, and nobody could paste it."""
    try:
        str(name).encode()
    except UnicodeEncodeError as cause:
        hint = "rename it; if it looks right in other programs, set a locale of UTF-8 like LC_ALL=C.UTF-8"
        raise error(name, "has bytes in its name that are no text in this locale", hint=hint) from cause


def check_writable(path: Path, *, force: bool, resumable: bool = False) -> None:
    """Refuse an unusable output before any work is done for it: without `force`, also one that exists."""
    require_text(path, OutputError)
    if os.path.isdir(path):  # `Path.is_dir` raises if the name is too long
        raise OutputError(path, "is a folder", hint=f"name a file, for example {path / 'sparse.safetensors'}")
    try:
        temporary_beside(path).lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"{path!s:.99}…", "is too long a name", hint="name a shorter --output") from error
    if not path.parent.is_dir():
        above = next(folder for folder in path.parents if folder.exists())
        if not above.is_dir():
            raise OutputError(path, f"{above} is not a folder", hint=ELSEWHERE)
        raise OutputError(path, "its folder does not exist", hint=f"mkdir -p {path.parent}")
    require_plain(path)
    if path.exists() and not force:
        hint = "name another with --output, or overwrite it with --force"
        hint = f"if it is of this very run, add --resume; else {hint}" if resumable else hint
        raise OutputError(path, "exists already", hint=hint)
    # Write a file instead of reading permission bits, which ignore root, ACLs and read-only mounts.
    with _trial_file(path.parent):
        pass


def require_plain(path: Path) -> None:
    """Refuse to replace anything but a regular file: renaming would replace it silently."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):  # not followed either: somebody else may have chosen its target
        target = path.parent / path.readlink()
        raise OutputError(path, f"is a link to {target}", hint=f"name {target} itself, or remove the link")
    if not stat.S_ISREG(mode):
        raise OutputError(path, "is a folder, a device or a pipe, not a file", hint="name another with --output")


def check_outputs(checkpoint: Path, *, force: bool) -> None:
    """Refuse a checkpoint, or the report beside it, before any work is done for them."""
    check_writable(checkpoint, force=True)
    if checkpoint.suffix != ".safetensors":
        # With another suffix its report could be taken for another checkpoint's, and ntt does not read a .pt file.
        hint = f"name it {checkpoint.with_suffix('.safetensors')}"
        raise OutputError(checkpoint, "is not named .safetensors, which is what is written", hint=hint)
    resumable = state_path(checkpoint).exists() or report_path(checkpoint).exists()
    check_writable(checkpoint, force=force, resumable=resumable)
    check_writable(report_path(checkpoint), force=force, resumable=resumable)


def report_path(output: Path) -> Path:
    """`OUT.report.safetensors` beside `OUT.safetensors`."""
    return output.with_suffix(".report.safetensors")


def state_path(output: Path) -> Path:
    """`OUT.resume.safetensors` beside `OUT.safetensors`: the state of an unfinished run."""
    return output.with_suffix(".resume.safetensors")


def remove_orphans(path: Path, *, older_than: float) -> None:
    """Remove temporary files for `path` that killed runs left, if they are at least `older_than` seconds old.

    Only the holder of the lock of `path` may pass 0, because nobody else is writing then. The process id in the name
    does not help: a process in another container may have the same id.
    """
    for orphan in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_temporary(orphan, path):
            with contextlib.suppress(OSError):
                if time.time() - orphan.lstat().st_mtime >= older_than:
                    orphan.unlink()


def is_temporary(entry: Path, path: Path) -> bool:
    """Whether `entry`, a file beside `path`, is a temporary file for `path`."""
    begin = f".{path.name}."
    return entry.name.startswith(begin) and bool(_TEMPORARY.fullmatch(entry.name.removeprefix(begin)))


def remove_durably(path: Path) -> None:
    with os_error_as(OutputError, path, "cannot be removed", hint="remove it yourself"):
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_atomically(
    path: Path, start: bytes, rest: Iterable[memoryview] = (), *, check: Callable[[Path], object] | None = None
) -> None:
    """Write `start` and `rest` to a temporary file beside `path`, flush it to disk, and rename it to `path`.

    Permissions follow the umask. `check` reads the temporary file before it is renamed, and raises if its content is
    wrong. After any error `path` is unchanged.
    """
    with _written(path, start, rest) as temporary:
        if check is not None:
            check(temporary)
        require_plain(path)
        temporary.replace(path)
        _sync_folder(path.parent)


def create_atomically(path: Path, content: bytes) -> bool:
    """As `write_atomically`, but never over an existing file: returns `False` if there is one."""
    with _written(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            temporary.replace(path)  # this file system has no hard links
        _sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _written(path: Path, start: bytes, rest: Iterable[memoryview] = ()) -> Generator[Path]:
    # A temporary file with this content, flushed to disk; it is removed afterwards unless it was renamed. What the file
    # system refuses in the body of the `with` becomes an `OutputError` too.
    temporary = temporary_beside(path)
    try:
        with os_error_as(OutputError, path, "cannot be written", hint=f"free some space or {ELSEWHERE}"):
            with temporary.open("xb") as file:  # "x" follows no link
                file.write(start)
                file.writelines(rest)
                file.flush()
                _sync(file.fileno())
            yield temporary
    finally:
        # After a rename there is no such file; after an error or an interruption there may be a part of it.
        with contextlib.suppress(OSError):
            temporary.unlink()


def temporary_beside(path: Path) -> Path:
    """A name for a temporary file or folder, which no other has."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def can_sync(folder: Path) -> bool:
    """Whether the file system can flush files and their names to disk."""
    with _trial_file(folder) as number:
        return _sync(number) and _sync_folder(folder)


@contextlib.contextmanager
def _trial_file(folder: Path) -> Generator[int]:
    with os_error_as(OutputError, folder, "cannot be written to", hint=ELSEWHERE):
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file.fileno()


def _sync(number: int) -> bool:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        return False
    return True


def _sync_folder(path: Path) -> bool:
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        return False  # a folder may be writable but not readable
    try:
        return _sync(folder)
    finally:
        os.close(folder)


def sha256_of(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

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

from ntt_cli.errors import NttError, OutputError

HOUR = 3600.0
"""A temporary file that is older belongs to nobody, where no lock says so."""

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
"""What a file system says that cannot write to disk at once, as some of networks."""

_TEMPORARY = re.compile(r"\d+(\.[0-9a-f]{8})?\.tmp")
"""The end of a temporary file's name: the process, for people who look, and what makes it unique."""


def require_text(name: str | Path, error: type[NttError]) -> None:
    """Refuse a name whose bytes are no text, before any work: no record could hold it, and no line could be pasted.

    Raises:
        NttError: as `error`, if there are such bytes.
    """
    try:
        str(name).encode()
    except UnicodeEncodeError as cause:
        hint = "rename it; if it looks right in other programs, set a locale of UTF-8 like LC_ALL=C.UTF-8"
        raise error(name, "has bytes in its name that are no text in this locale", hint=hint) from cause


def check_writable(path: Path, *, force: bool, resumable: bool = False) -> None:
    """Refuse an output before any work is done for it; `resumable` ones may be of the very run that is asked for.

    Raises:
        OutputError: if `path` exists and `force` is not set, is a link, a folder, a device, or its name is no text or
            too long, or its folder is missing or read-only.
    """
    require_text(path, OutputError)
    if os.path.isdir(path):  # of a name that is too long, `Path.is_dir` raises
        raise OutputError(path, "is a folder", hint=f"name a file, for example {path / 'sparse.safetensors'}")
    try:
        _temporary(path).lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"{path!s:.99}…", "is too long a name", hint="name a shorter --output") from error
    if not path.parent.is_dir():
        above = next(folder for folder in path.parents if folder.exists())
        if not above.is_dir():
            raise OutputError(path, f"{above} is not a folder", hint="name a file elsewhere with --output")
        raise OutputError(path, "its folder does not exist", hint=f"mkdir -p {path.parent}")
    require_plain(path)
    if path.exists() and not force:
        hint = "name another with --output, or overwrite it with --force"
        hint = f"if it is of this very run, add --resume; else {hint}" if resumable else hint
        raise OutputError(path, "exists already", hint=hint)
    try:
        # Asking the file system beats reading permission bits: root, ACLs and read-only mounts answer differently.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            path.parent, f"cannot be written to: {error.strerror}", hint="name a file elsewhere with --output"
        ) from error


def require_plain(path: Path) -> None:
    """Refuse to replace what is no file: renaming would put one in its place without a word.

    A link is neither followed, which would write where somebody else may have pointed it, nor replaced.

    Raises:
        OutputError: if there is a link or a device.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        target = path.parent / path.readlink()
        raise OutputError(path, f"is a link to {target}", hint=f"name {target} itself, or remove the link")
    if not stat.S_ISREG(mode):
        raise OutputError(path, "is a folder, a device or a pipe, not a file", hint="name another with --output")


def check_outputs(checkpoint: Path, *, force: bool) -> None:
    """Refuse a checkpoint, or the report beside it, before any work is done for them.

    Raises:
        OutputError: if one of them cannot be written, or the checkpoint is not named as what it is.
    """
    check_writable(checkpoint, force=True)
    if checkpoint.suffix != ".safetensors":
        # Under another suffix its report would be taken for another checkpoint's, and a .pt would not be read again.
        hint = f"name it {checkpoint.with_suffix('.safetensors')}"
        raise OutputError(checkpoint, "is not named .safetensors, which is what is written", hint=hint)
    resumable = state_path(checkpoint).exists() or report_path(checkpoint).exists()
    check_writable(checkpoint, force=force, resumable=resumable)
    check_writable(report_path(checkpoint), force=force, resumable=resumable)


def report_path(output: Path) -> Path:
    """`OUT.report.safetensors` beside `OUT.safetensors`."""
    return output.with_suffix(".report.safetensors")


def state_path(output: Path) -> Path:
    """`OUT.resume.safetensors` beside `OUT.safetensors`: where an unfinished run goes on."""
    return output.with_suffix(".resume.safetensors")


def remove_orphans(path: Path, *, older_than: float) -> None:
    """Remove what killed runs left of their temporary files for `path`, so many seconds ago.

    With 0, only for the holder of its lock: nobody else is writing it then. What process a name was of says nothing,
    since another container may have one of the same number.
    """
    for orphan in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_temporary(orphan, path):
            with contextlib.suppress(OSError):
                if time.time() - orphan.lstat().st_mtime >= older_than:
                    orphan.unlink()


def is_temporary(entry: Path, path: Path) -> bool:
    """Whether a file beside `path` is one that a process writes, or wrote, to give it the name `path`."""
    begin = f".{path.name}."
    return entry.name.startswith(begin) and bool(_TEMPORARY.fullmatch(entry.name.removeprefix(begin)))


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: if the file system refuses.
    """
    try:
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(path, f"cannot be removed: {error.strerror}", hint="remove it yourself") from error


def write_atomically(
    path: Path, start: bytes, rest: Iterable[memoryview] = (), *, check: Callable[[Path], object] | None = None
) -> None:
    """Write all of it to a temporary file beside `path`, flush it to disk, and rename it into place.

    Permissions follow the umask. `check` reads the file before it gets its name, and raises if it is not what it
    should be.

    Raises:
        OutputError: if the file system refuses, or there is a link; `path` is then as it was.
    """
    with _written(path, start, rest) as temporary:
        if check is not None:
            check(temporary)
        require_plain(path)
        temporary.replace(path)
        _sync_folder(path.parent)


def create_atomically(path: Path, content: bytes) -> bool:
    """The same where there is no such file yet; `False`, and nothing is written, where there is one.

    Raises:
        OutputError: if the file system refuses.
        OSError: never; it becomes that.
    """
    with _written(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            temporary.replace(path)  # a file system that has no second names for a file
        _sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _written(path: Path, start: bytes, rest: Iterable[memoryview] = ()) -> Generator[Path]:
    """A temporary file that holds this, on disk; gone afterwards unless it was renamed.

    Yields:
        its path.

    Raises:
        OutputError: if the file system refuses, here or where it is renamed.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:  # it follows no link
            file.write(start)
            file.writelines(rest)
            file.flush()
            _sync(file.fileno())
        yield temporary
    except OSError as error:
        raise OutputError(
            path, f"cannot be written: {error.strerror}", hint="free some space or name a file elsewhere with --output"
        ) from error
    finally:
        # There is none after the renaming; after an error or an interruption there may be a part.
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def can_sync(folder: Path) -> bool:
    """Whether the file system writes files and names to disk when it is asked to.

    Raises:
        OutputError: if it cannot be written to.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return _sync(file.fileno()) and _sync_folder(folder)
    except OSError as error:
        raise OutputError(
            folder, f"cannot be written to: {error.strerror}", hint="name a file elsewhere with --output"
        ) from error


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
        return False  # one may write into a folder that one may not list
    try:
        return _sync(folder)
    finally:
        os.close(folder)


def sha256_of(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

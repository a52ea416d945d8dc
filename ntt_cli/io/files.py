"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ntt_cli.errors import OutputError


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        OutputError: if `path` exists and `force` is not set, is a folder or too long a name, or its folder is missing
            or read-only.
    """
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
    if path.exists() and not force:
        raise OutputError(path, "exists already", hint="name another with --output, or overwrite it with --force")
    try:
        # Asking the file system beats reading permission bits: root, ACLs and read-only mounts answer differently.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            path.parent, f"cannot be written to: {error.strerror}", hint="name a file elsewhere with --output"
        ) from error


def check_outputs(checkpoint: Path, *, force: bool) -> None:
    """Refuse a checkpoint, or the report beside it, before any work is done for them.

    Raises:
        OutputError: if one of them cannot be written, or the checkpoint is not named as what it is.
    """
    check_writable(checkpoint, force=force)
    if checkpoint.suffix != ".safetensors":
        # Under another suffix its report would be taken for another checkpoint's, and a .pt would not be read again.
        hint = f"name it {checkpoint.with_suffix('.safetensors')}"
        raise OutputError(checkpoint, "is not named .safetensors, which is what is written", hint=hint)
    check_writable(report_path(checkpoint), force=force)


def report_path(output: Path) -> Path:
    """`OUT.report.safetensors` beside `OUT.safetensors`."""
    return output.with_suffix(".report.safetensors")


def state_path(output: Path) -> Path:
    """`OUT.resume.safetensors` beside `OUT.safetensors`: where an unfinished run goes on."""
    return output.with_suffix(".resume.safetensors")


def remove_orphans(path: Path) -> None:
    """Remove what killed runs left of their temporary files for `path`; those of live processes stay."""
    for orphan in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = orphan.name.removesuffix(".tmp").rpartition(".")[2]
        if number.isdecimal() and (int(number) == os.getpid() or not _is_alive(int(number))):
            with contextlib.suppress(OSError):
                orphan.unlink()


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


def write_atomically(path: Path, start: bytes, rest: Iterable[memoryview] = ()) -> None:
    """Write all of it to a temporary file beside `path`, flush it to disk, and rename it into place.

    Permissions follow the umask.

    Raises:
        OutputError: if the file system refuses; `path` is then as it was.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.write(start)
            file.writelines(rest)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            path, f"cannot be written: {error.strerror}", hint="free some space or name a file elsewhere with --output"
        ) from error
    finally:
        # There is none after the renaming; after an error or an interruption there may be a part.
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process at all
        return True
    return True


def sha256_of(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

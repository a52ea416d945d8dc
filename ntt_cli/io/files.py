"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from ntt_cli.errors import OutputError


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        OutputError: if `path` exists and `force` is not set, is a folder, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise OutputError(path, "is a folder", hint=f"name a file, for example {path / 'sparse.safetensors'}")
    if not path.parent.is_dir():
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


def report_path(output: Path) -> Path:
    """`OUT.report.safetensors` beside `OUT.safetensors`."""
    return output.with_suffix(".report.safetensors")


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to disk, and rename it into place.

    Permissions follow the umask.

    Raises:
        OutputError: if the file system refuses; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            path, f"cannot be written: {error.strerror}", hint="free some space or name a file elsewhere with --output"
        ) from error


def sha256_of(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()

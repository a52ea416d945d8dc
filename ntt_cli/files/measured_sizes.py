"""How large files are on disk, zipped, and packed: by writing, not by an estimate."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ntt_cli.errors import CheckpointError, UsageError
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.files.export import FORMATS, Exported, convert

CHUNK = 2**20


def zipped_bytes(files: Sequence[Path]) -> int:
    """The bytes of these files by zlib at its usual level, as zip and gzip compress them; nothing is written."""
    size, packer = 0, zlib.compressobj()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                size += len(packer.compress(chunk))
    return size + len(packer.flush())


def packed_bytes(checkpoint: Checkpoint, sha256: str | None, dtype: str | None = None) -> int | None:
    """The size of `ntt export --to packed`, written to a temporary folder; `None` if a value is beyond the type."""
    if dtype is not None:
        try:
            checkpoint, _ = convert(checkpoint, dtype)
        except UsageError:
            pass  # all are of this type already
        except CheckpointError:
            return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.safetensors"
        FORMATS["packed"](path, Exported(checkpoint, sha256))
        return path.stat().st_size

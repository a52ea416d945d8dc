"""The idx files of MNIST and Fashion-MNIST, compressed or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ntt_cli.config import Split
from ntt_cli.errors import DataError
from ntt_cli.files.free_memory import require_memory

PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}
UNSIGNED_BYTES = 0x08
AGAIN = "fetch this file again"


def find_idx(folder: Path, split: Split, kind: str = "images-idx3") -> Path:
    """The path of the images, or of the labels ("labels-idx1"), compressed or not. There may be no such file."""
    path = folder / f"{PREFIXES[split]}-{kind}-ubyte"
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def read_idx_pair(folder: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images `[n, h, w]` and labels `[n]`, from a folder that has the images."""
    labels = find_idx(folder, split, "labels-idx1")
    if not labels.is_file():
        raise DataError(folder, f"has no {labels.stem}", hint="put it there, compressed by gzip or not")
    return read_idx(find_idx(folder, split), dimensions=3), read_idx(labels, dimensions=1)


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file: `0 0 8 d`, `d` big-endian sizes, then the values."""
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            if file.read(4) != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
                raise DataError(path, f"is not an idx file of {dimensions}-dimensional bytes", hint=AGAIN)
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            if not size:
                raise DataError(path, f"has shape {list(shape)}: it holds nothing", hint=AGAIN)
            require_memory(path, size, error=DataError, hint=f"{AGAIN}, or use a machine with more memory")
            values = file.read(size + 1)
    except (OSError, EOFError, zlib.error, struct.error) as failure:
        raise DataError(path, f"is damaged: {failure}", hint=AGAIN) from failure
    if len(values) != size:
        has = f"only {len(values)}" if len(values) < size else "more"
        raise DataError(path, f"is damaged: it promises {size} values and holds {has}", hint=AGAIN)
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)

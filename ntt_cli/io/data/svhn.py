"""The MATLAB files of SVHN's cropped digits."""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ntt_cli.config import Split
from ntt_cli.errors import DataError
from ntt_cli.io.free_memory import require_memory

CROPPED = "take SVHN's format 2, the cropped digits"
WIDTHS = {
    **{"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4},
    **{"int64": 8, "uint64": 8, "single": 4, "double": 8},
}
"""Bytes of a number, by MATLAB's name for its type."""

COMPRESSED = 15
CHUNK = 2**20
SPARE = 2**20
"""What names, sizes and tags may take beside the numbers."""


def svhn_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}_32x32.mat"


def read_svhn(folder: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images `[n, 3, 32, 32]` and labels `[n]`, in which the digit 0 is class 0 and not, as in the file, class 10.

    Raises:
        DataError: if scipy is not installed, or the file is not one of SVHN's.
    """
    path = svhn_file(folder, split)
    try:
        from scipy.io import loadmat, whosmat  # an optional dependency
    except ImportError as failure:
        raise DataError(
            "svhn", "is stored as MATLAB files, which scipy reads", hint="pip install 'ntt-cli[svhn]'"
        ) from failure
    try:
        declared = whosmat(path)
    except Exception as failure:  # scipy raises whatever it trips over in a damaged file
        _refuse(path, failure)
    _check_declared(path, declared)
    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].reshape(-1)
    except Exception as failure:
        _refuse(path, failure)
    if images.ndim == 3:  # MATLAB has no fourth dimension of length 1
        images = images[..., None]
    if images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        what = f"holds images of shape {list(images.shape)} and type {images.dtype}, not bytes of [32, 32, 3, n]"
        raise DataError(path, what, hint=CROPPED)
    if labels.dtype.kind not in "iuf" or not np.isin(labels, np.arange(11)).all():
        raise DataError(path, "holds labels that are not 0 to 10", hint=CROPPED)
    return images.transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels).astype(np.int64)


def _check_declared(path: Path, declared: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
    """Look at what the variables are said to be, before scipy follows their nesting and unpacks their numbers.

    Raises:
        DataError: if they are not arrays of numbers, or the file holds more than they are said to be.
    """
    for wanted in ("X", "y"):
        kinds = [kind for name, _, kind in declared if name == wanted]
        if len(kinds) != 1 or kinds[0] not in WIDTHS:  # scipy goes as deep as cells are nested, until it falls over
            raise DataError(path, f"its {wanted} is {' and '.join(kinds) or 'missing'}, not numbers", hint=CROPPED)
    size = sum(WIDTHS.get(kind, 8) * math.prod(map(abs, shape)) for _, shape, kind in declared)
    require_memory(path, size, error=DataError, hint="fetch this file again, or use a machine with more memory")
    if _inflates_beyond(path, size + SPARE):
        raise DataError(path, "holds more bytes than its variables have", hint="fetch this file again")


def _inflates_beyond(path: Path, most: int) -> bool:
    """Whether the compressed variables of a MATLAB 5 file together have more than so many bytes."""
    with path.open("rb") as file, contextlib.suppress(zlib.error):  # damage is for scipy to find
        file.seek(128)
        total = 0
        while len(tag := file.read(8)) == 8:
            kind, left = struct.unpack("<II", tag)
            inflate = zlib.decompressobj()
            while left and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                while kind == COMPRESSED and chunk:
                    total += len(inflate.decompress(chunk, CHUNK))
                    chunk = inflate.unconsumed_tail
                    if total > most:
                        return True
    return False


def _refuse(path: Path, failure: Exception) -> NoReturn:
    what = f"cannot be read as MATLAB's X and y: {type(failure).__name__}: {failure}"
    raise DataError(path, what, hint="fetch this file again") from failure

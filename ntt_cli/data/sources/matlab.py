"""Arrays of numbers in a MATLAB 5 file. Scipy's reader can crash the process on a damaged file.

The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ntt_cli.errors import DataError, os_error_as
from ntt_cli.files.free_memory import require_memory

HEADER_BYTES = 128
ORDERS = {b"IM": "<", b"MI": ">"}
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy's names for the types of stored numbers."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""NumPy's names for the types of arrays. MATLAB stores numbers in a smaller type if they fit."""
COMPLEX = 0x800
MOST_BYTES = 256
"""The most bytes of a variable's flags, dimensions or name."""
CHUNK = 2**20

AGAIN = "fetch this file again"

Array = npt.NDArray[Any]
Take = Callable[[int], bytes]


def read_matlab(path: Path, names: Collection[str]) -> dict[str, Array]:
    """The variables of these names that the file has; others are skipped.

    Raises:
        DataError: if the file is damaged or not a MATLAB 5 file, or a variable is not an array of real numbers or does
            not fit into memory.
    """
    try:
        with os_error_as(DataError, path, "cannot be read", hint="check the path"), path.open("rb") as file:
            return _read(path, file, names)
    except (_DamagedError, zlib.error, ValueError) as failure:  # NumPy's limit of dimensions
        raise DataError(path, f"cannot be read as a MATLAB 5 file: {failure}", hint=AGAIN) from failure


class _DamagedError(Exception):
    pass


@dataclass(frozen=True)
class _Variable:
    name: str
    dtype: str | None
    """NumPy's name for the type; `None` if the variable is not an array of real numbers."""
    shape: tuple[int, ...]


def _read(path: Path, file: BinaryIO, names: Collection[str]) -> dict[str, Array]:
    order = ORDERS.get(file.read(HEADER_BYTES)[-2:])
    if order is None:
        raise _DamagedError("it does not begin as one")
    found: dict[str, Array] = {}
    while tag := file.read(8):
        if len(tag) < 8:
            raise _DamagedError("it is cut off")
        kind, size = struct.unpack(f"{order}II", tag)
        end = file.tell() + size
        if kind in {MATRIX, COMPRESSED}:
            take = _taking(file, size, compressed=kind == COMPRESSED)
            if kind == COMPRESSED and struct.unpack(f"{order}II", take(8))[0] != MATRIX:
                raise _DamagedError("something else than a variable is compressed")
            variable = _variable(take, order)
            if variable.name in found:
                raise DataError(path, f"holds {variable.name} twice", hint=AGAIN)
            if variable.name in names:
                found[variable.name] = _array(path, variable, take, order)
        file.seek(end)
    return found


def _variable(take: Take, order: str) -> _Variable:
    flags, dimensions, name = (_element(take, order)[1] for _ in range(3))
    if len(flags) < 4 or len(dimensions) % 4:
        raise _DamagedError("a variable has no flags or dimensions")
    (flag,) = struct.unpack(f"{order}I", flags[:4])
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    if min(shape, default=0) < 0:
        raise _DamagedError("a variable has negative dimensions")
    return _Variable(name.decode("latin-1"), None if flag & COMPLEX else CLASSES.get(flag & 0xFF), shape)


def _array(path: Path, variable: _Variable, take: Take, order: str) -> Array:
    if variable.dtype is None:
        raise DataError(path, f"its {variable.name} is not real numbers", hint="name a file of arrays of numbers")
    wanted, count = np.dtype(variable.dtype), math.prod(variable.shape)

    def size(kind: int) -> int:
        # Numbers may be stored in a larger type than the array's.
        stored = np.dtype(TYPES.get(kind, "V0")).itemsize
        most = count * max(stored, wanted.itemsize)
        require_memory(path, most, error=DataError, hint=f"{AGAIN}, or use a larger machine")
        return count * stored

    stored, content = _element(take, order, size)
    if stored not in TYPES or len(content) != count * np.dtype(TYPES[stored]).itemsize:
        raise _DamagedError(f"its {variable.name} is not as large as it says")
    numbers = np.frombuffer(content, f"{order}{TYPES[stored]}")
    return numbers.astype(wanted).reshape(variable.shape, order="F")


def _element(take: Take, order: str, most: Callable[[int], int] = lambda _: MOST_BYTES) -> tuple[int, bytes]:
    # Type and content, of at most so many bytes of that type; up to four lie within the tag.
    tag = take(8)
    kind, size = struct.unpack(f"{order}II", tag)
    if kind >> 16:
        kind, size = kind & 0xFFFF, kind >> 16
        return kind, tag[4 : 4 + size]
    if size > most(kind):
        raise _DamagedError("a part of it is larger than it says")
    content = take(size)
    return kind, content if size % 8 == 0 else (content + take(-size % 8))[:size]


def _taking(file: BinaryIO, left: int, *, compressed: bool) -> Take:
    inflate, waiting = zlib.decompressobj(), b""

    def take(size: int) -> bytes:
        nonlocal left, waiting
        data = bytearray()
        while (missing := size - len(data)) > 0:
            if not waiting:
                waiting = file.read(min(left, CHUNK))
                left -= len(waiting)
            ended = not waiting
            if compressed:
                more = inflate.decompress(waiting, missing)
                waiting = inflate.unconsumed_tail
            else:
                more, waiting = waiting[:missing], waiting[missing:]
            if ended and not more:
                raise _DamagedError("it is cut off")
            data += more
        return bytes(data)

    return take

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.io import savemat

from ntt_cli.data.sources.matlab import read_matlab
from ntt_cli.files import free_memory
from tests.data.refusal import refusal

AGAIN = "fetch this file again"
COMPRESSED = 15
KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    padding = 0 if kind == COMPRESSED else -len(content) % 8
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(padding)


def matrix(kind: int, shape: tuple[int, ...], name: bytes, content: bytes, order: str = "<") -> bytes:
    flags = element(6, struct.pack(f"{order}II", kind, 0), order)
    sizes = element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return element(14, flags + sizes + element(1, name, order) + content, order)


def header(order: str = "<") -> bytes:
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49)


def compressed(variable: bytes) -> bytes:
    return element(COMPRESSED, zlib.compress(variable))


def written(path: Path, *elements: bytes, order: str = "<") -> Path:
    path.write_bytes(header(order) + b"".join(elements))
    return path


@settings(max_examples=60, deadline=None)
@given(data=st.data(), packed=st.booleans())
def test_what_scipy_writes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, packed: bool) -> None:
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    shapes = array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=5)
    kind = data.draw(st.sampled_from(KINDS))
    stored = {name: data.draw(arrays(np.dtype(kind), shapes)) for name in ("X", "longer_name")}
    savemat(path, stored | {"text": "passed over", "cells": np.array([1, "a"], dtype=object)}, do_compression=packed)
    found = read_matlab(path, ("X", "longer_name", "absent"))
    assert found.keys() == stored.keys()
    for name, array in stored.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_numbers_in_a_smaller_type(tmp_path: Path) -> None:
    """As MATLAB stores them, and the digits 1 to 4 within their tag."""
    variable = matrix(6, (2, 2), b"X", struct.pack("<HH", 2, 4) + bytes([1, 2, 3, 4]))
    found = read_matlab(written(tmp_path / "a.mat", variable), ("X",))["X"]
    assert found.dtype == np.float64
    assert found.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_the_other_byte_order(tmp_path: Path) -> None:
    variable = matrix(10, (1, 2), b"X", element(3, struct.pack(">hh", 1, -2), ">"), ">")
    found = read_matlab(written(tmp_path / "a.mat", variable, order=">"), ("X",))["X"]
    assert found.tolist() == [[1, -2]]


BYTES = matrix(9, (4, 2), b"X", element(2, bytes(range(8))))


def test_these_would_be_read_if_they_were_honest(tmp_path: Path) -> None:
    for variable in (BYTES, compressed(BYTES)):
        assert read_matlab(written(tmp_path / "a.mat", variable), ("X",))["X"][:, 1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("packed", [False, True])
def test_every_truncation_is_noticed(tmp_path: Path, packed: bool) -> None:
    whole = compressed(BYTES) if packed else BYTES
    for size in range(1, len(whole) - 5 * packed):  # the last 5 are the end of zlib's stream and its checksum
        with refusal("cannot be read as a MATLAB 5 file: it is cut off", hint=AGAIN):
            read_matlab(written(tmp_path / "a.mat", whole[:size]), ("X",))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("variable", "what"),
    [
        (matrix(9, (4, 2), b"X", element(2, bytes(9))), "a part of it is larger than it says"),
        (matrix(9, (4, 2), b"X", element(2, bytes(7))), "its X is not as large as it says"),
        (matrix(9, (4, 2), b"X", element(77, bytes(8))), "a part of it is larger than it says"),
        (matrix(9, (4, 2), b"X", element(8, b"")), "its X is not as large as it says"),
        (matrix(9, (4, -2), b"X", element(2, b"")), "a variable has negative dimensions"),
        (matrix(9, (1,) * 65, b"X", element(2, b"\1")), "a part of it is larger than it says"),
        (matrix(9, (4, 2), b"X" * 257, element(2, b"")), "a part of it is larger than it says"),
        (matrix(9, (0, *(2**31 - 1,) * 3), b"X", element(2, b"")), ""),
        (element(14, element(6, b"\0") + element(5, b"") + element(1, b"X")), "a variable has no flags or dimensions"),
    ],
)
def test_damage(tmp_path: Path, variable: bytes, what: str, packed: bool) -> None:
    path = written(tmp_path / "a.mat", compressed(variable) if packed else variable)
    with refusal(f"{path}: cannot be read as a MATLAB 5 file: {what}", hint=AGAIN):
        read_matlab(path, ("X",))


def test_only_variables_are_compressed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mat", compressed(element(2, bytes(8))))
    with refusal("something else than a variable is compressed", hint=AGAIN):
        read_matlab(path, ("X",))


@pytest.mark.parametrize("values", [np.array([[1j, 2.0]]), np.array([[1, "a"]], dtype=object), "words"])
def test_other_things_than_numbers(tmp_path: Path, values: Any) -> None:
    savemat(tmp_path / "a.mat", {"X": values})
    with refusal("its X is not real numbers", hint="arrays of numbers"):
        read_matlab(tmp_path / "a.mat", ("X",))
    assert not read_matlab(tmp_path / "a.mat", ("y",))


def test_cells_are_not_followed(tmp_path: Path) -> None:
    cells = matrix(1, (1, 1), b"X", matrix(1, (1, 1), b"", matrix(9, (0, 0), b"", element(2, b""))))
    with refusal("its X is not real numbers", hint="arrays of numbers"):
        read_matlab(written(tmp_path / "a.mat", cells), ("X",))


def test_a_variable_twice(tmp_path: Path) -> None:
    with refusal("holds X twice", hint=AGAIN):
        read_matlab(written(tmp_path / "a.mat", BYTES, compressed(BYTES)), ("X",))


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    bomb = matrix(9, (4, 2), b"X", element(2, bytes(2**25)))
    with refusal("a part of it is larger than it says", hint=AGAIN):
        read_matlab(written(tmp_path / "a.mat", compressed(bomb)), ("X",))


def test_absurd_sizes(tmp_path: Path) -> None:
    variable = matrix(9, (32, 32, 3, 2**31 - 1), b"X", element(2, b""))
    with refusal("takes 6144.0 GiB of memory to read", hint=AGAIN):
        read_matlab(written(tmp_path / "a.mat", variable), ("X",))


def test_numbers_stored_in_a_larger_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.mat", matrix(9, (10, 100), b"X", element(9, bytes(8000))))
    monkeypatch.setattr(free_memory, "free_memory", lambda: 16000)
    assert read_matlab(path, ("X",))["X"].nbytes == 1000
    monkeypatch.setattr(free_memory, "free_memory", lambda: 15999)
    with refusal("of memory to read", hint=AGAIN):
        read_matlab(path, ("X",))


def test_what_ended_the_process_when_scipy_read_it() -> None:
    """Found by atheris."""
    path = Path(__file__).parent / "crashed_scipy.mat"
    with refusal("cannot be read as a MATLAB 5 file: its X is not as large as it says", hint=AGAIN):
        read_matlab(path, ("X", "y"))


def test_missing(tmp_path: Path) -> None:
    with refusal("cannot be read: No such file or directory", hint="check the path"):
        read_matlab(tmp_path / "a.mat", ("X",))

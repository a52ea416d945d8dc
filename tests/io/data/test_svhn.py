from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from ntt_cli.io.data.svhn import read_svhn
from tests.io.data.layouts import random_images
from tests.io.data.refusal import refusal


@pytest.mark.parametrize("n", [1, 3])
def test_images_are_turned_and_the_digit_0_is_class_0(tmp_path: Path, n: int) -> None:
    raw = random_images(n, 3, 32, 32)
    labels = np.array([[10], [1], [9]])[:n]
    stored = raw.transpose(2, 3, 1, 0)
    savemat(tmp_path / "test_32x32.mat", {"X": stored[..., 0] if n == 1 else stored, "y": labels})
    images, classes = read_svhn(tmp_path, "test")
    np.testing.assert_array_equal(images, raw)
    assert classes.tolist() == [0, 1, 9][:n]


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with refusal("svhn: is stored as MATLAB files, which scipy reads", hint="pip install 'ntt-cli[svhn]'"):
        read_svhn(tmp_path, "train")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(b"junk")
    with refusal(f"{path}: cannot be read as MATLAB's X and y", hint="fetch this file again"):
        read_svhn(tmp_path, "train")
    savemat(path, {"X": np.zeros((32, 32, 3, 2))})
    with refusal("its y is missing, not numbers", hint="cropped digits"):
        read_svhn(tmp_path, "train")
    for images in (np.zeros((32, 32, 3, 2)), np.zeros((16, 64, 3, 2), dtype=np.uint8)):
        savemat(path, {"X": images, "y": [[1], [2]]})
        with refusal(f"holds images of shape {list(images.shape)} and type {images.dtype}", hint="cropped digits"):
            read_svhn(tmp_path, "train")


COMPRESSED = 15


def element(kind: int, content: bytes) -> bytes:
    padding = 0 if kind == COMPRESSED else -len(content) % 8
    return struct.pack("<II", kind, len(content)) + content + bytes(padding)


def matrix(kind: int, shape: tuple[int, ...], name: bytes, content: bytes) -> bytes:
    """A MATLAB 5 variable."""
    flags, sizes = element(6, struct.pack("<II", kind, 0)), element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, flags + sizes + element(1, name) + content)


HEADER = b"MATLAB 5.0".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
LABELS = matrix(9, (1, 1), b"y", element(2, b"\1"))


def test_the_files_below_would_be_read_if_they_were_honest(tmp_path: Path) -> None:
    images = matrix(9, (32, 32, 3, 1), b"X", element(2, bytes(3072)))
    (tmp_path / "train_32x32.mat").write_bytes(HEADER + element(COMPRESSED, zlib.compress(images)) + LABELS)
    assert read_svhn(tmp_path, "train")[1].tolist() == [1]


def test_cells_are_not_followed(tmp_path: Path) -> None:
    # Of these, 100,000 within each other end the process, whatever Python's limit of recursion.
    cells = matrix(1, (1, 1), b"X", matrix(1, (1, 1), b"", matrix(9, (0, 0), b"", element(2, b""))))
    images = matrix(9, (32, 32, 3, 1), b"X", element(2, bytes(3072)))
    for variables, what in ((cells, "its X is cell"), (cells + images, "its X is cell and uint8")):
        (tmp_path / "train_32x32.mat").write_bytes(HEADER + variables + LABELS)
        with refusal(f"{what}, not numbers", hint="cropped digits"):
            read_svhn(tmp_path, "train")


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    images = matrix(9, (32, 32, 3, 1), b"X", element(2, bytes(2**25)))
    (tmp_path / "train_32x32.mat").write_bytes(HEADER + element(COMPRESSED, zlib.compress(images)) + LABELS)
    with refusal("holds more bytes than its variables have", hint="fetch this file again"):
        read_svhn(tmp_path, "train")


def test_absurd_sizes(tmp_path: Path) -> None:
    images = matrix(9, (32, 32, 3, 2**31 - 1), b"X", element(2, b""))
    (tmp_path / "train_32x32.mat").write_bytes(HEADER + images + LABELS)
    with refusal("takes 6144.0 GiB of memory to read", hint="fetch this file again"):
        read_svhn(tmp_path, "train")


@pytest.mark.parametrize("labels", [np.array([[np.nan], [1.0]]), np.array([[1j], [1.0]]), np.array([[1], [11]])])
def test_labels_that_are_no_digits(tmp_path: Path, labels: np.ndarray[Any, Any]) -> None:
    savemat(tmp_path / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": labels})
    with refusal("holds labels that are not 0 to 10", hint="cropped digits"):
        read_svhn(tmp_path, "train")

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from ntt_cli.data.sources.svhn import read_svhn
from tests.data.refusal import refusal
from tests.data.sources.layouts import random_images


@pytest.mark.parametrize("n", [1, 3])
def test_images_are_turned_and_the_digit_0_is_class_0(tmp_path: Path, n: int) -> None:
    raw = random_images(n, 3, 32, 32)
    labels = np.array([[10], [1], [9]])[:n]
    stored = raw.transpose(2, 3, 1, 0)
    savemat(tmp_path / "test_32x32.mat", {"X": stored[..., 0] if n == 1 else stored, "y": labels})
    images, classes = read_svhn(tmp_path, "test")
    np.testing.assert_array_equal(images, raw)
    assert classes.tolist() == [0, 1, 9][:n]


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(b"junk")
    with refusal(f"{path}: cannot be read as a MATLAB 5 file: it does not begin as one", hint="fetch this file again"):
        read_svhn(tmp_path, "train")
    savemat(path, {"X": np.zeros((32, 32, 3, 2))})
    with refusal("its y is missing", hint="cropped digits"):
        read_svhn(tmp_path, "train")
    for images in (np.zeros((32, 32, 3, 2)), np.zeros((16, 64, 3, 2), dtype=np.uint8)):
        savemat(path, {"X": images, "y": [[1], [2]]})
        with refusal(f"holds images of shape {list(images.shape)} and type {images.dtype}", hint="cropped digits"):
            read_svhn(tmp_path, "train")


@pytest.mark.parametrize("labels", [np.array([[np.nan], [1.0]]), np.array([[1], [11]]), np.array([[-1], [1]])])
def test_labels_that_are_no_digits(tmp_path: Path, labels: np.ndarray[Any, Any]) -> None:
    savemat(tmp_path / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": labels})
    with refusal("holds labels that are not 0 to 10", hint="cropped digits"):
        read_svhn(tmp_path, "train")

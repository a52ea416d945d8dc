"""The files of CIFAR-10 and CIFAR-100. The Python version is pickled. A pickle can run any code, so it is never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_cli.config import Split
from ntt_cli.data.sources.pickled import Bytes, Refused, read_pickle
from ntt_cli.errors import DataError, os_error_as
from ntt_cli.files.free_memory import require_memory

IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32
CIFAR10_BATCHES: dict[Split, list[str]] = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}

AGAIN, ALL_AGAIN = "fetch this file again", "fetch the data set again"

Content = tuple[Bytes, npt.NDArray[np.int64], tuple[str, ...]]


def read_cifar10(folder: Path, split: Split) -> Content:
    """Images `[n, 3, 32, 32]`, labels `[n]` and class names, from `cifar-10-batches-py`."""
    images, labels = zip(*(_read_batch(folder / name, "labels") for name in CIFAR10_BATCHES[split]), strict=True)
    return np.concatenate(images), np.concatenate(labels), _class_names(folder / "batches.meta", "label_names")


def read_cifar100(folder: Path, split: Split) -> Content:
    """Images `[n, 3, 32, 32]`, fine labels `[n]` and class names, from `cifar-100-python`."""
    return *_read_batch(folder / split, "fine_labels"), _class_names(folder / "meta", "fine_label_names")


def read_cifar10_binary(folder: Path, split: Split) -> Content:
    """Images `[n, 3, 32, 32]`, labels `[n]` and class names, from `cifar-10-batches-bin`."""
    records = []
    for name in CIFAR10_BATCHES[split]:
        path = folder / f"{name}.bin"
        values = np.frombuffer(_read(path), dtype=np.uint8)
        if len(values) % (1 + IMAGE_BYTES):
            raise DataError(path, f"does not hold records of {1 + IMAGE_BYTES} bytes", hint=AGAIN)
        records.append(values.reshape(-1, 1 + IMAGE_BYTES))
    joined = np.concatenate(records)
    names = _read(folder / "batches.meta.txt").decode("latin1").split()
    return joined[:, 1:].reshape(-1, *IMAGE_SHAPE), joined[:, 0].astype(np.int64), tuple(names)


def _read_batch(path: Path, label_key: str) -> tuple[Bytes, npt.NDArray[np.int64]]:
    batch = _unpickle(path)
    try:
        images = batch["data"].values.reshape(-1, *IMAGE_SHAPE)
        given = batch[label_key]
        if type(given) is not list or not all(type(label) is int for label in given):  # a list in it may contain itself
            raise ValueError(f"its {label_key} are no list of whole numbers")
        labels = np.array(given, dtype=np.int64)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as failure:
        raise _no_batch(path, failure) from failure
    if images.dtype != np.uint8 or labels.shape != (len(images),):
        what = f"holds {len(images)} images of type {images.dtype} and labels of shape {list(labels.shape)}"
        raise DataError(path, what, hint=AGAIN)
    return images, labels


def _class_names(path: Path, key: str) -> tuple[str, ...]:
    content = _unpickle(path)
    names = content.get(key) if type(content) is dict else None
    if type(names) is not list or not all(type(name) is str for name in names):
        raise _no_batch(path, ValueError(f"its {key} are no list of names"))
    return tuple(names)


def _read(path: Path) -> bytes:
    with os_error_as(DataError, path, "cannot be read", hint=ALL_AGAIN):
        require_memory(path, path.stat().st_size, error=DataError, hint=ALL_AGAIN)
        return path.read_bytes()


def _no_batch(path: Path, failure: Exception) -> DataError:
    return DataError(path, f"is not a batch of CIFAR images: {type(failure).__name__}: {failure}", hint=AGAIN)


def _unpickle(path: Path) -> Any:
    try:
        return read_pickle(_read(path))
    except Refused as failure:
        what = f"{failure}, which images do not need; nothing of it was run"
        raise DataError(path, what, hint=f"do not trust this file; {ALL_AGAIN}") from failure
    except ValueError as failure:
        raise _no_batch(path, failure) from failure

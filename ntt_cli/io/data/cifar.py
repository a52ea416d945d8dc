"""The files of CIFAR-10 and CIFAR-100.

The Python version is pickled, and a pickle can run anything. The unpickler here knows the five names that such a file
needs, and each stands for code below, not numpy's: `numpy.ndarray` itself, called with arguments of a file's choice,
reads and writes memory that is not its own.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_cli.config import Split
from ntt_cli.errors import DataError

Bytes = npt.NDArray[np.uint8]
IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32
CIFAR10_BATCHES: dict[Split, tuple[str, ...]] = {
    "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "test": ("test_batch",),
}


def read_cifar10(folder: Path, split: Split) -> tuple[Bytes, npt.NDArray[np.int64], tuple[str, ...]]:
    """Images `[n, 3, 32, 32]`, labels `[n]` and class names, from `cifar-10-batches-py`."""
    batches = [_read_batch(folder / name, "labels") for name in CIFAR10_BATCHES[split]]
    names = _class_names(folder / "batches.meta", "label_names")
    return np.concatenate([batch[0] for batch in batches]), np.concatenate([batch[1] for batch in batches]), names


def read_cifar100(folder: Path, split: Split) -> tuple[Bytes, npt.NDArray[np.int64], tuple[str, ...]]:
    """Images `[n, 3, 32, 32]`, fine labels `[n]` and class names, from `cifar-100-python`."""
    return *_read_batch(folder / split, "fine_labels"), _class_names(folder / "meta", "fine_label_names")


def read_cifar10_binary(folder: Path, split: Split) -> tuple[Bytes, npt.NDArray[np.int64], tuple[str, ...]]:
    """Images `[n, 3, 32, 32]`, labels `[n]` and class names, from `cifar-10-batches-bin`.

    Raises:
        DataError: if a file is missing or does not consist of records of one label and one image.
    """
    records = []
    for name in CIFAR10_BATCHES[split]:
        path = folder / f"{name}.bin"
        values = np.frombuffer(_read(path), dtype=np.uint8)
        if len(values) % (1 + IMAGE_BYTES):
            raise DataError(path, f"does not hold records of {1 + IMAGE_BYTES} bytes", hint="fetch this file again")
        records.append(values.reshape(-1, 1 + IMAGE_BYTES))
    joined = np.concatenate(records)
    names = _read(folder / "batches.meta.txt").decode("latin1").split()
    return joined[:, 1:].reshape(-1, *IMAGE_SHAPE), joined[:, 0].astype(np.int64), tuple(names)


def _read_batch(path: Path, label_key: str) -> tuple[Bytes, npt.NDArray[np.int64]]:
    batch = _unpickle(path)
    try:
        images = batch["data"].array.reshape(-1, *IMAGE_SHAPE)
        labels = np.array(batch[label_key], dtype=np.int64)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as failure:
        raise _no_batch(path, failure) from failure
    if images.dtype != np.uint8 or labels.shape != (len(images),):
        raise DataError(
            path,
            f"holds {len(images)} images of type {images.dtype} and labels of shape {list(labels.shape)}",
            hint="fetch this file again",
        )
    return images, labels


def _class_names(path: Path, key: str) -> tuple[str, ...]:
    try:
        return tuple(str(name) for name in _unpickle(path)[key])
    except (KeyError, TypeError) as failure:
        raise _no_batch(path, failure) from failure


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failure:
        raise DataError(path, f"cannot be read: {failure.strerror}", hint="fetch the data set again") from failure


def _no_batch(path: Path, failure: Exception) -> DataError:
    what = f"is not a batch of CIFAR images: {type(failure).__name__}: {failure}"
    return DataError(path, what, hint="fetch this file again")


@dataclass
class _PickledType:
    """What stands for `numpy.dtype`."""

    name: str
    align: bool = False
    copy: bool = False

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes do not have."""


@dataclass
class _PickledArray:
    """What stands for `numpy.ndarray`: the bytes of it, made into an array here."""

    array: Bytes = field(default_factory=lambda: np.empty(0, dtype=np.uint8))

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledType, bool, str | bytes]) -> None:
        _, shape, dtype, column_major, values = state
        if dtype.name not in {"u1", "|u1"}:
            raise ValueError(f"its array has type {dtype.name}, not u1")
        raw = values.encode("latin1") if isinstance(values, str) else values  # a string where Python 2 wrote it
        self.array = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")


def _new_array(_subtype: object, _shape: object, _typecode: object) -> _PickledArray:
    return _PickledArray()


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for Python 2


class _Unpickler(pickle.Unpickler):
    """An unpickler that can build containers, numbers, strings and arrays of bytes, and nothing else."""

    known = {
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledType,
        ("_codecs", "encode"): _latin1,
    }

    def __init__(self, path: Path) -> None:
        super().__init__(io.BytesIO(_read(path)), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise DataError(
                self.path,
                f"asks for {module}.{name}, which images do not need; nothing of it was run",
                hint="do not trust this file; fetch the data set again",
            )
        return self.known[module, name]


def _unpickle(path: Path) -> Any:
    try:
        return _Unpickler(path).load()
    except DataError:
        raise
    except Exception as failure:  # a damaged pickle can fail in any way
        raise _no_batch(path, failure) from failure

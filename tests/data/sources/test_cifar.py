from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ntt_cli.data.sources.cifar import read_cifar10, read_cifar10_binary, read_cifar100
from tests.data.refusal import refusal
from tests.data.sources.layouts import random_images, write_cifar10, write_cifar10_binary, write_cifar100, write_pickle

IMAGES = random_images(12, 3, 32, 32)
LABELS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickled_batches_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS, protocol=protocol)
    for split, part in (("train", slice(10)), ("test", slice(10, 12))):
        images, labels, names = read_cifar10(tmp_path / "cifar-10-batches-py", split)
        np.testing.assert_array_equal(images, IMAGES[part])
        assert labels.tolist() == LABELS[part]
        assert names[3] == "class 3"


def test_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    # The published files spell numpy's module the old way and hold byte strings, which come back as latin1 text.
    write_cifar10(tmp_path, IMAGES, LABELS)
    values = IMAGES[10:].tobytes()
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(values).to_bytes(4, "little")
        + values
        + b"tbU\x06labelsq\x08]q\x09("
        b"K\x05K\x08eu."
    )
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "test_batch").write_bytes(content)
    images, labels, _ = read_cifar10(folder, "test")
    np.testing.assert_array_equal(images, IMAGES[10:])
    assert labels.tolist() == LABELS[10:]


def test_column_major_arrays_are_not_scrambled(tmp_path: Path) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    folder = tmp_path / "cifar-10-batches-py"
    write_pickle(folder / "test_batch", {"data": np.asfortranarray(IMAGES[10:].reshape(2, -1)), "labels": [0, 1]})
    np.testing.assert_array_equal(read_cifar10(folder, "test")[0], IMAGES[10:])


def test_the_binary_version_holds_the_same(tmp_path: Path) -> None:
    write_cifar10_binary(tmp_path, IMAGES, LABELS)
    images, labels, names = read_cifar10_binary(tmp_path / "cifar-10-batches-bin", "train")
    np.testing.assert_array_equal(images, IMAGES[:10])
    assert labels.tolist() == LABELS[:10]
    assert names == tuple(f"class_{i}" for i in range(10))
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(3074))
    with refusal("test_batch.bin: does not hold records of 3073 bytes", hint="fetch this file again"):
        read_cifar10_binary(tmp_path / "cifar-10-batches-bin", "test")


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    labels = [99, *range(11)]
    write_cifar100(tmp_path, "train", IMAGES, labels)
    images, read, names = read_cifar100(tmp_path / "cifar-100-python", "train")
    np.testing.assert_array_equal(images, IMAGES)
    assert read.tolist() == labels
    assert len(names) == 100


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_a_planted_call_is_refused_and_does_not_run(tmp_path: Path, protocol: int, *, nested: bool) -> None:
    trace = tmp_path / "ran"
    planted = Call(os.mkdir, str(trace))
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch = {"data": IMAGES[10:].reshape(2, -1), "labels": LABELS[10:], "filenames": [planted]}
    write_pickle(path, batch if nested else planted, protocol=protocol)
    with refusal(f"{path}: asks for posix.mkdir, which images do not need", hint="do not trust this file"):
        read_cifar10(path.parent, "test")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # or the test would prove nothing


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__", "exec", "open"])
def test_builtin_functions_are_refused(tmp_path: Path, name: str) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(b"cbuiltins\n" + name.encode() + b"\n(S'1'\ntR.")
    with refusal(f"asks for builtins.{name}", hint="do not trust"):
        read_cifar10(path.parent, "test")


def test_numpy_itself_is_not_called(tmp_path: Path) -> None:
    # numpy.ndarray((1,), object, b"AAAAAAAA") makes an object of an address of the file's choice.
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(b"\x80\x02}U\x04datacnumpy\nndarray\nK\x01\x85U\x01OU\x08AAAAAAAA\x87Rs.")
    with refusal("is not a batch of CIFAR images", hint="fetch this file again"):
        read_cifar10(path.parent, "test")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "is not a batch of CIFAR images: TypeError"),
        ({"labels": [1, 2]}, "is not a batch of CIFAR images: KeyError: 'data'"),
        ({"data": IMAGES[10:].reshape(2, -1)}, "is not a batch of CIFAR images: KeyError: 'labels'"),
        ({"data": [1, 2], "labels": [1, 2]}, "is not a batch of CIFAR images: AttributeError"),
        ({"data": np.zeros((2, 3072)), "labels": [1, 2]}, "its array has type f8, not u1"),
        ({"data": np.zeros((2, 3000), dtype=np.uint8), "labels": [1, 2]}, "cannot reshape array"),
        ({"data": IMAGES[10:].reshape(2, -1), "labels": [1]}, "holds 2 images of type uint8 and labels of shape [1]"),
        ({"data": IMAGES[10:].reshape(2, -1), "labels": ["a", "b"]}, "is not a batch of CIFAR images: ValueError"),
    ],
)
def test_other_pickles(tmp_path: Path, content: object, what: str) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    write_pickle(path, content)
    with refusal(what, hint="fetch this file again"):
        read_cifar10(path.parent, "test")


@pytest.mark.parametrize("name", ["data_batch_4", "batches.meta"])
def test_damaged_and_missing_files(tmp_path: Path, name: str) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / name
    path.write_bytes(path.read_bytes()[:-20])
    with refusal(f"{path}: is not a batch of CIFAR images", hint="fetch this file again"):
        read_cifar10(path.parent, "train")
    path.unlink()
    with refusal(f"{path}: cannot be read: No such file", hint="fetch the data set again"):
        read_cifar10(path.parent, "train")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("abc", "its label_names are no list of names"),
        ([1, 2], "its label_names are no list of names"),
        ([[["a"]]], "its label_names are no list of names"),
        (None, "its label_names are no list of names"),
    ],
)
def test_names_that_are_none(tmp_path: Path, names: object, what: str) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    write_pickle(tmp_path / "cifar-10-batches-py" / "batches.meta", {"label_names": names})
    with refusal(what, hint="fetch this file again"):
        read_cifar10(tmp_path / "cifar-10-batches-py", "test")


@pytest.mark.parametrize("label", [[[1] * 100] * 100, True, 1.0, 2**70])
def test_labels_that_are_no_numbers(tmp_path: Path, label: object) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    write_pickle(path, {"data": IMAGES[10:].reshape(2, -1), "labels": [0, label]})
    with refusal("is not a batch of CIFAR images", hint="fetch this file again"):
        read_cifar10(path.parent, "test")


def test_a_file_with_holes_is_not_read(tmp_path: Path) -> None:
    write_cifar10(tmp_path, IMAGES, LABELS)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    os.truncate(path, 2**40)
    with refusal("takes 1024.0 GiB of memory to read", hint="fetch the data set again"):
        read_cifar10(path.parent, "test")

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, load_samples
from ntt_cli.data.sources import named
from tests.data.refusal import refusal
from tests.data.sources.layouts import (
    Bytes,
    random_images,
    write_cifar10,
    write_cifar10_binary,
    write_cifar100,
    write_idx,
)

LABELS = np.array([3, 1, 4, 1, 5, 9], dtype=np.uint8)


@pytest.fixture
def no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the files that Debian may have installed."""
    ours = tuple(layout for layout in named.LAYOUTS["fashion-mnist"] if layout.folder != named.DEBIAN_FASHION_MNIST)
    monkeypatch.setitem(named.LAYOUTS, "fashion-mnist", ours)


def load(name: str, root: Path | str = "data", *, split: str = "train", **options: object) -> Samples:
    where = {} if name == "digits" else {"data_root": str(root)}
    return load_samples(DataOptions(data=name, **where, **options), split=split)


def agrees(data: Samples, images: Bytes, labels: list[int]) -> None:
    assert data.labels is not None
    assert data.labels.tolist() == labels
    np.testing.assert_allclose(data.inputs(torch.arange(len(data))).numpy(), images / 255, rtol=1e-6)


def test_digits_ship_with_the_package() -> None:
    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.class_names == tuple("0123456789")
    assert (train.split, test.split) == ("train", "test")
    assert train.labels is not None
    assert test.labels is not None
    counts = train.labels.bincount() + test.labels.bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as UCI publishes them
    assert (test.labels.bincount() / counts - 0.2).abs().max() < 0.004
    x = torch.cat([data.inputs(torch.arange(len(data))) for data in (train, test)])
    assert x.shape == (1797, 1, 8, 8)
    levels = x * 16
    torch.testing.assert_close(levels, levels.round(), atol=0.04, rtol=0)
    # Mean intensity of the 1,797 images, from scikit-learn's own copy: 4.8841646 of 16.
    assert levels.round().mean().item() == pytest.approx(4.8841646, abs=1e-6)


def test_no_digit_is_in_both_parts() -> None:
    train, test = load("digits"), load("digits", split="test")
    rows, others = (data.inputs(torch.arange(len(data))).flatten(1) for data in (train, test))
    assert torch.cdist(rows, others).min() > 0


@pytest.mark.skipif(not named.DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_of_debian_is_found_as_it_lies() -> None:
    train, test = load("fashion-mnist"), load("fashion-mnist", split="test")
    assert (len(train), len(test)) == (60000, 10000)
    assert train.labels is not None
    assert train.labels.bincount().tolist() == [6000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert train.class_names is not None
    assert train.class_names[9] == "Ankle boot"
    x = torch.cat([train.inputs(part) for part in torch.arange(60000).split(10000)])
    assert x.mean().item() == pytest.approx(0.2860, abs=5e-5)  # the well-known numbers of this data set
    assert x.std().item() == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("fashion-mnist", ".")]
)
@pytest.mark.parametrize("compress", [False, True])
def test_idx_files(tmp_path: Path, name: str, folder: str, *, compress: bool) -> None:
    images = random_images(6, 28, 28)
    write_idx(tmp_path / folder, "train", images[:4], LABELS[:4], compress=compress)
    write_idx(tmp_path / folder, "t10k", images[4:], LABELS[4:], compress=compress)
    agrees(load(name, tmp_path), images[:4, None], [3, 1, 4, 1])
    agrees(load(name, tmp_path, split="test"), images[4:, None], [5, 9])


def test_idx_files_without_labels_or_with_too_few(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder, "train", random_images(6, 28, 28), LABELS[:5])
    with refusal("mnist: has 6 inputs but 5 labels", hint="one label"):
        load("mnist", tmp_path)
    (folder / "train-labels-idx1-ubyte").unlink()
    with refusal(f"{folder}: has no train-labels-idx1-ubyte", hint="put it there"):
        load("mnist", tmp_path)


def test_cifar10_in_both_layouts(tmp_path: Path) -> None:
    images = random_images(6, 3, 32, 32)
    write_cifar10_binary(tmp_path, images, LABELS.tolist())
    agrees(load("cifar10", tmp_path), images[:5], [3, 1, 4, 1, 5])
    write_cifar10(tmp_path, images, LABELS.tolist())
    agrees(load("cifar10", tmp_path, split="test"), images[5:], [9])
    assert load("cifar10", tmp_path).class_names == tuple(f"class {i}" for i in range(10))


def test_cifar100(tmp_path: Path) -> None:
    images = random_images(6, 3, 32, 32)
    write_cifar100(tmp_path, "test", images, [99, 0, 1, 2, 3, 4])
    agrees(load("cifar100", tmp_path, split="test"), images, [99, 0, 1, 2, 3, 4])


def test_svhn(tmp_path: Path) -> None:
    images = random_images(3, 3, 32, 32)
    savemat(tmp_path / "train_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": [[10], [2], [3]]})
    data = load("svhn", tmp_path)
    agrees(data, images, [0, 2, 3])
    assert data.class_names == tuple("0123456789")


def test_options_for_images_and_a_limit(tmp_path: Path) -> None:
    images = random_images(6, 3, 32, 32)
    images[:] = np.arange(6, dtype=np.uint8)[:, None, None, None]
    write_cifar100(tmp_path, "train", images, [0, 1, 2, 3, 4, 5])
    data = load("cifar100", tmp_path, image_size="8x16", grayscale=True, limit=3)
    x = data.inputs(torch.arange(3))
    assert x.shape == (3, 1, 8, 16)
    assert data.labels is not None
    assert (255 * x[:, 0, 4, 8]).round().int().tolist() == data.labels.tolist()


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("mnist", ["MNIST/raw"]),
        ("fashion-mnist", ["FashionMNIST/raw", "."]),
        ("cifar10", ["cifar-10-batches-py", "cifar-10-batches-bin"]),
        ("cifar100", ["cifar-100-python"]),
        ("svhn", ["."]),
    ],
)
def test_a_missing_data_set_says_where_it_was_sought(tmp_path: Path, name: str, folders: list[str]) -> None:
    sought = ", ".join(str(tmp_path / folder) for folder in folders)
    with refusal(f"{name}: its train files are in none of these folders: {sought}", hint="--download"):
        load(name, tmp_path)
    with refusal(f"{name}: its test files", hint="--data-root"):
        load(name, tmp_path, split="test")


def test_a_download_is_read_by_our_own_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    images, calls = random_images(6, 28, 28), []

    def fetch(root: Path, *, train: bool, download: bool) -> None:
        sys.stdout.write("Downloading")
        calls.append((root, train, download))
        write_idx(root / "MNIST" / "raw", "train" if train else "t10k", images, LABELS, compress=True)

    monkeypatch.setattr(datasets, "MNIST", fetch)
    for _ in range(2):
        agrees(load("mnist", tmp_path, split="test", download=True), images[:, None], LABELS.tolist())
    assert calls == [(tmp_path, False, True)]  # what is there is not fetched again
    assert capsys.readouterr().out == ""


def test_svhn_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, root: Path, filename: str, md5: str) -> None:
        assert url.endswith("test_32x32.mat")
        assert len(md5) == 32
        savemat(root / filename, {"X": random_images(32, 32, 3, 2), "y": [[1], [2]]})

    monkeypatch.setattr(datasets.utils, "download_url", fetch)
    assert len(load("svhn", tmp_path, split="test", download=True)) == 2


@pytest.mark.parametrize(
    "failure", [URLError("no network"), RuntimeError("File not found or corrupted."), PermissionError(13, "denied")]
)
def test_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(datasets, "CIFAR10", fetch)
    with refusal(f"cifar10: could not be downloaded to {tmp_path}: {failure}", hint="check the connection"):
        load("cifar10", tmp_path, download=True)

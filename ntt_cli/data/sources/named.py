"""Named data sets: where their files may be, how to read them, and how to download them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from ntt_cli.config import DataOptions, Split
from ntt_cli.data.convert import Array
from ntt_cli.data.samples import Samples
from ntt_cli.data.sources.arrays import from_arrays
from ntt_cli.data.sources.cifar import CIFAR10_BATCHES, read_cifar10, read_cifar10_binary, read_cifar100
from ntt_cli.data.sources.idx import find_idx, read_idx_pair
from ntt_cli.data.sources.svhn import read_svhn, svhn_file
from ntt_cli.errors import DataError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

Content = tuple[Array, Array, tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """One arrangement of the files of a data set, in a folder below `--data-root` unless it is absolute."""

    folder: Path
    first: Callable[[Path, Split], Path]
    """The path of the first file of a split, which may not be there."""
    read: Callable[[Path, Split], Content]


def _idx(folder: str | Path, class_names: tuple[str, ...]) -> Layout:
    return Layout(Path(folder), find_idx, lambda folder, split: (*read_idx_pair(folder, split), class_names))


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "fashion-mnist": (_idx("FashionMNIST/raw", FASHION), _idx(".", FASHION), _idx(DEBIAN_FASHION_MNIST, FASHION)),
    "mnist": (_idx("MNIST/raw", DIGITS),),
    "cifar10": (
        Layout(Path("cifar-10-batches-py"), lambda folder, split: folder / CIFAR10_BATCHES[split][0], read_cifar10),
        Layout(
            Path("cifar-10-batches-bin"),
            lambda folder, split: folder / f"{CIFAR10_BATCHES[split][0]}.bin",
            read_cifar10_binary,
        ),
    ),
    "cifar100": (Layout(Path("cifar-100-python"), lambda folder, split: folder / split, read_cifar100),),
    "svhn": (Layout(Path("."), svhn_file, lambda folder, split: (*read_svhn(folder, split), DIGITS)),),
}


def read_named(name: str, *, split: Split, options: DataOptions) -> Samples:
    images, labels, class_names = _read_digits(split) if name == "digits" else _read_files(name, split, options)
    samples = from_arrays(images, labels, spec=name, options=options, split=split)
    return replace(samples, class_names=class_names)


def _read_digits(split: Split) -> Content:
    with np.load(str(files("ntt_cli") / "resources" / "digits.npz")) as archive:
        levels = archive[f"x_{split}"]  # 0 to 16
        return np.rint(levels * (255 / 16)).astype(np.uint8), archive[f"y_{split}"], DIGITS


def _read_files(name: str, split: Split, options: DataOptions) -> Content:
    root = Path(options.data_root).expanduser()
    found = _find(name, root, split)
    if found is None and options.download:
        _download(name, root, split)
        found = _find(name, root, split)
    if found is None:
        looked_in = ", ".join(dict.fromkeys(str(root / layout.folder) for layout in LAYOUTS[name]))
        hint = "say where they lie with --data-root, or fetch them with --download"
        raise DataError(name, f"its {split} files are in none of these folders: {looked_in}", hint=hint)
    return found.read(root / found.folder, split)


def _find(name: str, root: Path, split: Split) -> Layout | None:
    return next((each for each in LAYOUTS[name] if each.first(root / each.folder, split).is_file()), None)


def _download(name: str, root: Path, split: Split) -> None:
    from torchvision import datasets  # the import takes a second, and only downloads need it
    from torchvision.datasets.utils import download_url

    classes = {
        "fashion-mnist": datasets.FashionMNIST,
        "mnist": datasets.MNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }
    try:
        with redirect_stdout(sys.stderr):  # stdout is only for the result
            if name == "svhn":  # whose class would also read the file
                url, filename, md5 = datasets.SVHN.split_list[split]
                download_url(url, root, filename, md5)
            else:
                classes[name](root, train=split == "train", download=True)
    except (OSError, RuntimeError) as failure:  # errors of the network or the disk, or a wrong checksum
        hint = "check the connection and the folder, or put the files there yourself"
        raise DataError(name, f"could not be downloaded to {root}: {failure}", hint=hint) from failure

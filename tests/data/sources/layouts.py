"""Small files in the layouts of the named data sets."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def random_images(*shape: int) -> Bytes:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def write_idx(folder: Path, split: str, images: Bytes, labels: Bytes, *, compress: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()
        path = folder / f"{split}-{kind}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)


def write_pickle(path: Path, content: object, *, protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def write_cifar10(root: Path, images: Bytes, labels: list[int], *, protocol: int = 2) -> None:
    """Six equal batches, five of them for training, as Python pickles them."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    n = len(images) // 6
    for i, name in enumerate(names):
        rows = images[i * n : (i + 1) * n].reshape(n, -1)
        batch = {"batch_label": name, "data": rows, "labels": labels[i * n : (i + 1) * n], "filenames": ["x.png"] * n}
        write_pickle(root / "cifar-10-batches-py" / name, batch, protocol=protocol)
    write_pickle(root / "cifar-10-batches-py" / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})


def write_cifar10_binary(root: Path, images: Bytes, labels: list[int]) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    records = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], images.reshape(len(images), -1)], axis=1)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, part in zip(names, np.split(records, 6), strict=True):
        (folder / name).write_bytes(part.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class_{i}" for i in range(10)) + "\n\n")


def write_cifar100(root: Path, split: str, images: Bytes, labels: list[int]) -> None:
    folder = root / "cifar-100-python"
    batch = {"data": images.reshape(len(images), -1), "fine_labels": labels, "coarse_labels": [0] * len(images)}
    write_pickle(folder / split, batch)
    write_pickle(
        folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)], "coarse_label_names": ["all"]}
    )

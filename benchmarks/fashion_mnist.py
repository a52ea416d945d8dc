"""The training images of Fashion-MNIST as tensors, for the other benchmarks; they lie where `ntt` looks for them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDERS = (Path("data/FashionMNIST/raw"), Path("data"), Path("/usr/share/datasets/fashion-mnist"))


def training_images() -> tuple[Tensor, Tensor]:
    """Images, uint8 `[60000, 1, 28, 28]`, and labels, int64 `[60000]`."""
    images = _numbers("train-images-idx3-ubyte", header=16).reshape(-1, 1, 28, 28)
    return torch.from_numpy(images), torch.from_numpy(_numbers("train-labels-idx1-ubyte", header=8).astype(np.int64))


def _numbers(name: str, *, header: int) -> np.ndarray:
    for path in (folder / f"{name}{suffix}" for folder in FOLDERS for suffix in ("", ".gz")):
        if path.is_file():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            return np.frombuffer(raw, dtype=np.uint8, offset=header).copy()
    raise SystemExit(f"{name} is in none of {', '.join(map(str, FOLDERS))}")

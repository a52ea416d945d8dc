"""MNIST as tensors, and LeNets that were trained on it, for the other benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import build
from torch import Tensor, nn

import ntt_cli as ntt

MEAN, STD = 0.1307, 0.3081
NORMALISED: dict[str, Any] = {"mean": MEAN, "std": STD}
EPOCHS = 10


def images_of(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images, float32 in 0 to 1, `[n, 1, 28, 28]`, and classes `[n]`, of the `train` or `test` part of an .npz file."""
    with np.load(path) as found:
        images, labels = (torch.from_numpy(found[f"{axis}_{part}"]) for axis in "xy")
    return images.float().view(-1, 1, 28, 28) / 255, labels.long()


def trained(name: str, images: Tensor, labels: Tensor) -> nn.Module:
    """A dense network of `sample_models`, trained for 10 epochs as `ntt finetune` does by default."""
    network = build(f"sample_models/{name}.py", seed=1)
    return ntt.finetune(network, (images, labels), epochs=EPOCHS, seed=1, device="cpu", **NORMALISED).model


def normalised(images: Tensor) -> Tensor:
    return (images - MEAN) / STD

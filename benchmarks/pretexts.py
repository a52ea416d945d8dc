"""Does NTT gain by a teacher that has learnt something, still without labels?

    python benchmarks/pretexts.py [--sparsity 0.99] [--seeds 1]

LeNet-300-100 on Fashion-MNIST: a teacher learns a task made of 10,000 training images alone, 1,500 steps of Adam; it is
pruned on them, trained with their labels, 10 epochs of AdamW at 1e-2, and measured on 20,000 other training images.
The test set is not touched. `labels` is a teacher that sees them, as a bound.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from allocations import trained_accuracy, write_data
from networks import build
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import ntt_cli as ntt

NETWORK = "sample_models/lenet_300_100.py"
STEPS, BATCH = 1500, 128

Loss = Callable[[nn.Module, Tensor], Tensor]
"""Of a network on the images at these indices."""


def clusters(images: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Which of Lloyd's clusters an image is of, from a random start."""
    centres = images[torch.randperm(len(images), generator=generator)[:number]]
    for _ in range(30):
        nearest = torch.cdist(images, centres).argmin(1)
        centres = torch.stack([
            images[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(number)
        ])
    return nearest


def components(images: Tensor, number: int) -> Tensor:
    """The first principal components, each of unit variance."""
    left, _, _ = torch.pca_lowrank(images, number, niter=5)
    return left / left.std(0)


def classify(images: Tensor, classes: Tensor) -> Loss:
    return lambda network, chosen: F.cross_entropy(network(images[chosen]), classes[chosen])


def regress(images: Tensor, targets: Tensor) -> Loss:
    return lambda network, chosen: F.mse_loss(network(images[chosen]), targets[chosen])


def agree(images: Tensor, generator: torch.Generator) -> Loss:
    """On images of which half of the pixels are missing; VICReg, Bardes et al. 2022, arXiv 2105.04906."""

    def spread(logits: Tensor) -> Tensor:
        covariance = torch.cov(logits.T)
        deviations = (covariance.diag() + 1e-4).sqrt()
        return 25 * F.relu(1 - deviations).mean() + (covariance - covariance.diag().diag()).square().sum() / len(
            covariance
        )

    def loss(network: nn.Module, chosen: Tensor) -> Tensor:
        x = images[chosen]
        one, two = (network(x * (torch.rand(x.shape, generator=generator) < 0.5)) for _ in range(2))
        return 25 * F.mse_loss(one, two) + spread(one) + spread(two)

    return loss


def task(name: str, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss | None:
    """What the teacher learns; `None` for nothing."""
    match name:
        case "labels":
            return classify(images, labels)
        case "10 clusters":
            return classify(images, clusters(images, 10, generator))
        case "components":
            return regress(images, components(images, 10))
        case "functions":
            values = torch.tanh(5 * components(images, 30) @ torch.randn(30, 10, generator=generator) / 30)
            return regress(images, (values - values.mean(0)) / values.std(0))
        case "agreement":
            return agree(images, generator)
        case _:
            return None


TASKS = ("nothing", "10 clusters", "components", "functions", "agreement", "labels")


def teach(name: str, seed: int, data: Path, output: Path) -> dict[str, Any]:
    """Train a teacher, save its state dict, and return what its inputs were normalised by, as options."""
    arrays = np.load(data)
    images, labels = torch.from_numpy(arrays["x_train"]).flatten(1), torch.from_numpy(arrays["y_train"])
    mean, std = float(images.mean()), float(images.std())
    images = (images - mean) / std
    generator = torch.Generator().manual_seed(seed)
    network = build(NETWORK, seed=seed)
    loss = task(name, images, labels, generator)
    if loss is not None:
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss(network, torch.randint(len(images), (BATCH,), generator=generator)).backward()
            optimiser.step()
            schedule.step()
    save_file(network.state_dict(), output)
    return {"mean": str(mean), "std": str(std)}


def accuracy(name: str, kernel_weight: float, seed: int, sparsity: float, folder: Path) -> float:
    """In %, of one network."""
    teacher, sparse = (str(folder / f"{which}.safetensors") for which in ("teacher", "sparse"))
    data = folder / "data.npz"
    inputs = teach(name, seed, data, Path(teacher))
    options: dict[str, Any] = {"weights": teacher, "kernel_weight": kernel_weight, "seed": seed, "device": "cpu"}
    ntt.prune(NETWORK, data, sparsity=sparsity, output=sparse, force=True, **options, **inputs)
    return trained_accuracy({"model": NETWORK}, sparse, seed, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sparsity", type=float, default=0.99)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data.npz")
        print("| the teacher learnt | logits alone | with the kernel term |\n|---|---|---|")
        for name in TASKS:
            cells = []
            for kernel_weight in (0.0, 1.0):
                found = [
                    accuracy(name, kernel_weight, seed, options.sparsity, Path(folder))
                    for seed in range(1, options.seeds + 1)
                ]
                spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
                cells.append(f"{statistics.fmean(found):.2f}{spread}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

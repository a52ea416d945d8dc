"""What makes a mask good: LeNet-300-100 on Fashion-MNIST, accuracy on training images that were held out.

    python benchmarks/mask_structure.py [--seeds 3] [--sparsity 0.99]

Each mask is put on new random weights and trained alike: AdamW at 1e-2, cosine, 10 epochs on 20,000 images; 40,000
others measure it. Masks: random over all hidden units, by ERK's counts; as many weights, random over the first 150 + 50
and 110 + 35 units; random, but each first-layer unit on pixels near one of them (Gaussian, 3 pixels wide), or on those
that vary as one of them does (`exp(10 r)` by their correlation); NTT's; magnitude at initialisation; and as a ceiling
magnitude pruned gradually, with labels.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from fashion_mnist import training_images
from networks import build
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import ntt_cli as ntt

MODEL = "sample_models/lenet_300_100.py"
TRAINING, EPOCHS, BATCH = 20_000, 10, 64
UPDATE_EVERY = 100

Masks = Mapping[str, Tensor]
"""Bools, `True` = kept, by the name of their weight."""


class Data:
    """Standardised images: the first for training, the others to measure on; the test set is not touched."""

    def __init__(self) -> None:
        images, labels = training_images()
        x = images.float() / 255
        x = (x - x[:TRAINING].mean()) / x[:TRAINING].std()
        self.x, self.y = x[:TRAINING], labels[:TRAINING]
        self.held_x, self.held_y = x[TRAINING:], labels[TRAINING:]

    def accuracy(self, module: nn.Module) -> float:
        """In %."""
        with torch.no_grad():
            predictions = torch.cat([module(x).argmax(dim=1) for x in self.held_x.split(1000)])
        return 100 * float((predictions == self.held_y).double().mean())


def density_at(step: int, *, steps: int, density: float) -> float:
    """Cubic over the first half of the steps. Zhu & Gupta 2017, arXiv 1710.01878."""
    return density + (1 - density) * (1 - min(1.0, step / (steps // 2))) ** 3


def largest(module: nn.Module, allocation: str, *, density: float) -> Masks:
    """The masks of the largest weights."""
    options: dict[str, Any] = {"allocation": allocation} if density < 1 else {}
    masks: Masks = ntt.prune(module, sparsity=1 - density, method="magnitude", device="cpu", **options).masks
    return masks


def train(
    module: nn.Module, masks: Masks, data: Data, *, rate: float, seed: int, prune_to: float | None = None
) -> Masks:
    """Train in place; with `prune_to`, the smallest weights of all layers go in the first half. Returns the masks."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0, fused=True)
    steps = EPOCHS * (TRAINING // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    zero_pruned(module, masks)
    for step in range(steps):
        if prune_to is not None and step % UPDATE_EVERY == 0:
            masks = largest(module, "global", density=density_at(step, steps=steps, density=prune_to))
        indices = torch.randint(TRAINING, (BATCH,), generator=generator)
        optimiser.zero_grad()
        F.cross_entropy(module(data.x[indices]), data.y[indices]).backward()
        optimiser.step()
        zero_pruned(module, masks)
        if prune_to is None:
            schedule.step()
    return masks


def zero_pruned(module: nn.Module, masks: Masks) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).mul_(mask)


def random_masks(erk: Masks, units: tuple[int, int], generator: torch.Generator) -> Masks:
    """Random over the first hidden units, with the counts of other masks."""
    ends = [(units[0], 784), (units[1], units[0]), (10, units[1])]
    masks = {}
    for (name, mask), (rows, columns) in zip(erk.items(), ends, strict=True):
        part = torch.zeros(rows * columns, dtype=torch.bool)
        part[torch.randperm(rows * columns, generator=generator)[: int(mask.sum())]] = True  # what fits
        masks[name] = torch.zeros_like(mask)
        masks[name][:rows, :columns] = part.view(rows, columns)
    return masks


def on_pixels_alike(masks: Masks, likeness: Tensor, generator: torch.Generator) -> Masks:
    """The first layer's weights drawn anew, each unit's in proportion to `exp(likeness)` to one pixel."""
    name, mask = next(iter(masks.items()))
    units, pixels = mask.shape
    kept, more = divmod(int(mask.sum()), units)
    centres = torch.randint(pixels, (units,), generator=generator)
    gumbel = -torch.log(-torch.log(torch.rand(units, pixels, generator=generator).clamp(1e-9, 1 - 1e-7)))
    drawn = (likeness[centres] + gumbel).sort(dim=1, descending=True).indices
    chosen = torch.zeros_like(mask)
    for unit in range(units):
        chosen[unit, drawn[unit, : kept + (unit < more)]] = True
    return {**masks, name: chosen}


def likenesses(data: Data) -> dict[str, Tensor]:
    """Of all pairs of pixels."""
    places = torch.cartesian_prod(torch.arange(28.0), torch.arange(28.0))
    return {
        "random, near pixels": -torch.cdist(places, places).square() / (2 * 3**2),
        "random, pixels alike": 10 * torch.corrcoef(data.x.flatten(1).T).nan_to_num(0.0),
    }


def alive(masks: Masks) -> str:
    """Hidden units with inputs and outputs."""
    first, second, third = masks.values()
    return f"{int((first.any(1) & second.any(0)).sum())} + {int((second.any(1) & third.any(0)).sum())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.99)
    arguments = parser.parse_args()
    seeds, density = arguments.seeds, 1 - arguments.sparsity
    torch.set_num_threads(1)
    data = Data()
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for seed in range(1, seeds + 1):
        teacher = build(MODEL, seed=seed)
        erk = largest(teacher, "erk", density=density)
        generator = torch.Generator().manual_seed(seed)
        candidates = {
            f"random, {one} + {two} units": random_masks(erk, (one, two), generator)
            for one, two in ((300, 100), (150, 50), (110, 35))
        }
        for name, likeness in likenesses(data).items():
            candidates[name] = on_pixels_alike(candidates["random, 300 + 100 units"], likeness, generator)
        candidates["magnitude at initialisation"] = erk
        pruned = ntt.prune(MODEL, sparsity=1 - density, seed=seed, limit=TRAINING, device="cpu")
        candidates["NTT"] = pruned.masks
        candidates["magnitude with labels"] = train(teacher, {}, data, rate=2e-3, seed=seed, prune_to=density)
        for name, masks in candidates.items():
            module = build(MODEL, seed=seed + 100)
            train(module, masks, data, rate=1e-2, seed=seed)
            found[name].append((data.accuracy(module), alive(masks)))
            print(f"seed {seed} {name}: {found[name][-1][0]:.2f}, alive {found[name][-1][1]}", flush=True)
    table = Table("mask", "accuracy, %", "units alive, seed 1")
    for name, values in found.items():
        accuracies = [value for value, _ in values]
        spread = statistics.stdev(accuracies) if seeds > 1 else 0.0
        table.add_row(name, f"{statistics.mean(accuracies):.2f} ± {spread:.2f}", values[0][1])
    Console().print(table)


if __name__ == "__main__":
    main()

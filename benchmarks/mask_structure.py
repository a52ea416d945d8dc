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

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ntt_cli.config import DataOptions, ModelOptions, PruneConfig
from ntt_cli.data import load_samples
from ntt_cli.masks.allocation import allocate_erk
from ntt_cli.masks.masks import as_bits, zero_pruned
from ntt_cli.masks.rounds import masks_at
from ntt_cli.masks.schedule import cubic_density
from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.loop import run_transfer
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.loading.models import load_model
from ntt_cli.pruning.job import prepare
from ntt_cli.runs.checkpointer import no_checkpoints
from ntt_cli.runs.run import Run
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks
from ntt_cli.training.step import SparseModule, make_optimiser, training_step

MODEL = "sample_models/lenet_300_100.py"
TRAINING, EPOCHS, BATCH = 20_000, 10, 64
UPDATE_EVERY = 100


class Data:
    """Standardised images: the first for training, the others to measure on; the test set is not touched."""

    def __init__(self) -> None:
        samples = load_samples(DataOptions(data="fashion-mnist"), split="train")
        assert samples.labels is not None
        x = samples.inputs(torch.arange(len(samples)))
        x = (x - x[:TRAINING].mean()) / x[:TRAINING].std()
        self.x, self.y = x[:TRAINING], samples.labels[:TRAINING]
        self.held_x, self.held_y = x[TRAINING:], samples.labels[TRAINING:]

    def accuracy(self, module: nn.Module) -> float:
        """In %."""
        with torch.no_grad():
            predictions = torch.cat([module(x).argmax(dim=1) for x in self.held_x.split(1000)])
        return 100 * float((predictions == self.held_y).double().mean())


def network(seed: int) -> nn.Module:
    return load_model(ModelOptions(model=MODEL), seed=seed).module


def train(
    module: nn.Module, masks: Masks, data: Data, *, rate: float, seed: int, prune_to: float | None = None
) -> Masks:
    """Train in place; with `prune_to`, the smallest weights of all layers go in the first half. Returns the masks."""
    parameters = dict(module.named_parameters())
    weights: dict[str, Tensor] = dict(parameters)
    optimiser = make_optimiser("adamw", parameters.values(), learning_rate=rate, weight_decay=0.0)
    steps = EPOCHS * (TRAINING // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    for name, mask in as_bits(masks, weights).items():
        zero_pruned(parameters[name], mask)
    for step in range(steps):
        if prune_to is not None and step % UPDATE_EVERY == 0:
            density = cubic_density(step, steps=steps, density=prune_to)
            masks = masks_at(magnitude_scores(weights, masks), allocation="global", density=density)
        indices = torch.randint(TRAINING, (BATCH,), generator=generator)
        network = SparseModule(module, as_bits(masks, weights))
        training_step(network, optimiser, data.x[indices], data.y[indices])
        if prune_to is None:
            schedule.step()
    return masks


def random_masks(
    shapes: dict[str, torch.Size], units: tuple[int, int], *, density: float, generator: torch.Generator
) -> Masks:
    """Random over the first hidden units, with the counts that ERK gives the whole network."""
    counts = allocate_erk(shapes, density=density)
    ends = [(units[0], 784), (units[1], units[0]), (10, units[1])]
    masks = {}
    for (name, shape), (rows, columns) in zip(shapes.items(), ends, strict=True):
        part = torch.zeros(rows * columns, dtype=torch.bool)
        part[torch.randperm(rows * columns, generator=generator)[: counts[name]]] = True  # what fits
        masks[name] = torch.zeros(shape, dtype=torch.bool)
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
    return masks | {name: chosen}


def likenesses(data: Data) -> dict[str, Tensor]:
    """Of all pairs of pixels."""
    places = torch.cartesian_prod(torch.arange(28.0), torch.arange(28.0))
    return {
        "random, near pixels": -torch.cdist(places, places).square() / (2 * 3**2),
        "random, pixels alike": 10 * torch.corrcoef(data.x.flatten(1).T).nan_to_num(0.0),
    }


def ntt_masks(seed: int, *, density: float) -> Masks:
    """By default `ntt prune`, on as many images."""
    config = PruneConfig(model=MODEL, sparsity=1 - density, seed=seed, limit=TRAINING, device="cpu")
    task = prepare(config, lambda _: None)
    assert task.inputs is not None
    transfer = Transfer(task.teacher, task.inputs, task.names, task.outputs, task.settings)
    micro_batching = MicroBatching(None, task.settings.batch_size, lambda _: None)
    return run_transfer(transfer, Run(lambda _: None, no_checkpoints(), micro_batching)).masks


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
        teacher: dict[str, Tensor] = {name: p for name, p in network(seed).named_parameters() if p.ndim > 1}
        shapes = {name: p.shape for name, p in teacher.items()}
        dense: dict[str, Tensor] = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
        generator = torch.Generator().manual_seed(seed)
        candidates = {
            f"random, {one} + {two} units": random_masks(shapes, (one, two), density=density, generator=generator)
            for one, two in ((300, 100), (150, 50), (110, 35))
        }
        for name, likeness in likenesses(data).items():
            candidates[name] = on_pixels_alike(candidates["random, 300 + 100 units"], likeness, generator)
        candidates["magnitude at initialisation"] = masks_at(
            magnitude_scores(teacher, teacher), allocation="erk", density=density
        )
        candidates["NTT"] = ntt_masks(seed, density=density)
        candidates["magnitude with labels"] = train(network(seed), dense, data, rate=2e-3, seed=seed, prune_to=density)
        for name, masks in candidates.items():
            module = network(seed + 100)
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

"""Does NTT's student train better when its weights are brought back to the teacher's scale?

    python benchmarks/grid.py lenet_300_100 --methods ntt --out results/lenet_300_100
    python benchmarks/rescaled_students.py results/lenet_300_100

The transfer makes up for removed weights with larger ones. Each layer's kept weights are multiplied by `r^power`, with
`r` the root mean square of the teacher's weights over their own, and fine-tuned as the grid does, at 1e-2. Accuracy in
% on validation images, means and standard deviations over the grid's seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from grid import WARMUP, config_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ntt_cli.config import FinetuneConfig, ModelOptions
from ntt_cli.files.checkpoint import Checkpoint, Origin, read_checkpoint, write_checkpoint
from ntt_cli.networks.loading.models import load_model
from ntt_cli.training import finetune

NETWORK, RATE = "lenet_300_100", 1e-2
POWERS = {"as it is": 0.0, "half-way": 0.5, "the teacher's scale": 1.0}


def rescaled(checkpoint: Checkpoint, teacher: dict[str, Tensor], power: float) -> dict[str, Tensor]:
    tensors = dict(checkpoint.tensors)
    for name, mask in checkpoint.masks.items():
        ratio = teacher[name].square().mean().sqrt() / tensors[name][mask].square().mean().sqrt()
        tensors[name] = tensors[name] * ratio**power
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    torch.set_num_threads(1)
    grid = config_of(NETWORK, out=str(results), methods=None, jobs=1)
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        start, end = Path(scratch) / "start.safetensors", Path(scratch) / "end.safetensors"
        for sparsity in grid.sparsities:
            for seed in grid.seeds:
                checkpoint = read_checkpoint(results / "cells" / f"ntt-{sparsity:g}-seed{seed}" / "sparse.safetensors")
                loaded = load_model(ModelOptions(model=grid.model), seed=seed)
                for name, power in POWERS.items():
                    tensors = rescaled(checkpoint, loaded.module.state_dict(), power)
                    write_checkpoint(
                        start,
                        tensors,
                        checkpoint.masks,
                        Origin(
                            kind="prune",
                            model=loaded.record,
                            config={},
                            normalisation=checkpoint.normalisation,
                        ),
                    )
                    config = FinetuneConfig(
                        model=grid.model,
                        checkpoint=str(start),
                        limit=grid.limit,
                        validation=grid.validation,
                        seed=seed,
                        learning_rate=RATE,
                        warmup=WARMUP,
                        device="cpu",
                        output=str(end),
                        force=True,
                    )
                    accuracy = finetune.run(config, lambda _: None).accuracy
                    assert accuracy is not None
                    found[name, sparsity].append(100 * accuracy)
                    print(f"{sparsity:g} seed {seed} {name}: {found[name, sparsity][-1]:.2f}", flush=True)
    table = Table("weights", *(f"{sparsity:.0%}" for sparsity in grid.sparsities))
    for name in POWERS:
        values = [found[name, sparsity] for sparsity in grid.sparsities]
        table.add_row(name, *(f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f}" for v in values))
    Console().print(table)


if __name__ == "__main__":
    main()

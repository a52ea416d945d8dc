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
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from grid import WARMUP, options_of
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import ntt_cli as ntt

NETWORK, RATE = "lenet_300_100", 1e-2
POWERS = {"as it is": 0.0, "half-way": 0.5, "the teacher's scale": 1.0}


@ntt.register_method("rescaled")
class Rescaled(ntt.Method):
    """A student that is there already, its kept weights brought nearer to the teacher's scale."""

    def __init__(self, student: nn.Module, masks: Mapping[str, Tensor], power: float) -> None:
        self.student, self.kept, self.power = student, dict(masks), power

    def prune(self, context: ntt.MethodContext) -> Any:
        params = {name: p.detach() for name, p in self.student.named_parameters()}
        for name, mask in self.kept.items():
            ratio = context.params[name].square().mean().sqrt() / params[name][mask].square().mean().sqrt()
            params[name] = params[name] * ratio**self.power
        return context.pruned(params, self.kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    torch.set_num_threads(1)
    grid = options_of(NETWORK, out=str(results), methods=None, jobs=1)
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for sparsity in grid["sparsities"]:
        for seed in grid["seeds"]:
            same = {"limit": grid["limit"], "seed": seed, "device": "cpu"}
            checkpoint = results / "trials" / f"ntt-{sparsity:g}-seed{seed}" / "sparse.safetensors"
            student = ntt.load(checkpoint, grid["model"])
            for name, power in POWERS.items():
                method = Rescaled(student.model, student.masks, power)
                start = ntt.prune(grid["model"], sparsity=sparsity, method=method, **same)
                tuned = ntt.finetune(start, validation=grid["validation"], learning_rate=RATE, warmup=WARMUP, **same)
                assert tuned.report.accuracy is not None
                found[name, sparsity].append(100 * tuned.report.accuracy)
                print(f"{sparsity:g} seed {seed} {name}: {found[name, sparsity][-1]:.2f}", flush=True)
    table = Table("weights", *(f"{sparsity:.0%}" for sparsity in grid["sparsities"]))
    for name in POWERS:
        values = [found[name, sparsity] for sparsity in grid["sparsities"]]
        table.add_row(name, *(f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f}" for v in values))
    Console().print(table)


if __name__ == "__main__":
    main()

"""Pruning a trained network without labels: test accuracy of LeNet-300-100 on Fashion-MNIST before any fine-tuning.

    python benchmarks/pretrained_teacher.py [--limit N]

Per seed a dense network is trained by `ntt finetune` and pruned by `ntt prune --weights`, by NTT and by one-shot
magnitude; the checkpoints are evaluated as they are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from typing import Any

import torch
from grid import WARMUP
from rich.console import Console
from rich.table import Table

import ntt_cli as ntt

MODEL = "sample_models/lenet_300_100.py"
SEEDS = (1, 2, 3)
SPARSITIES = (0.95, 0.98)
METHODS: dict[str, dict[str, Any]] = {
    "NTT": {},
    "one-shot magnitude, ERK": {"method": "magnitude", "allocation": "erk"},
    "one-shot magnitude, global": {"method": "magnitude", "allocation": "global"},
}


def accuracy(network: ntt.SparseNetwork) -> float:
    """Test accuracy in %."""
    report = ntt.evaluate(network)
    assert report.accuracy is not None
    return 100 * report.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--limit", type=int, help="training images; default: all 60,000")
    limit = parser.parse_args().limit
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            weights = f"{folder}/dense.safetensors"
            dense = ntt.finetune(MODEL, seed=seed, limit=limit, warmup=WARMUP, output=weights)
            found["dense", ""].append(accuracy(dense))
            for sparsity in SPARSITIES:
                for method, options in METHODS.items():
                    same = {"weights": weights, "seed": seed, "limit": limit}
                    found[method, f"{sparsity:.0%}"].append(
                        accuracy(ntt.prune(MODEL, sparsity=sparsity, **same, **options))
                    )
                    print(
                        f"seed {seed} {sparsity:.0%} {method}: {found[method, f'{sparsity:.0%}'][-1]:.2f}", flush=True
                    )
    table = Table("method", "sparsity", "test accuracy, %", "below dense")
    for (method, level), values in found.items():
        gap = statistics.mean(found["dense", ""]) - statistics.mean(values)
        spread = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        table.add_row(method, level, spread, f"{gap:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

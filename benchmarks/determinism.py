"""Whether the same run gives the same bytes: `ntt prune` and `ntt finetune`, again and again, in new processes.

    python benchmarks/determinism.py [--runs 5] [--threads 1,2] [--seeds 0,1] [--hash-seeds 0,1,2]

A cell is a number of threads, a seed and a PYTHONHASHSEED. Prints, for each, its files' SHA-256, or how many different
ones there were, and then what differs between cells. Exits with 1 if the runs of one cell differ.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

FILES = ("sparse.safetensors", "tuned.safetensors")
MODEL = """
from torch import nn

DATA = "digits"

def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(768, 10),
    )
"""
"""Large enough for ntt to use more than one thread."""

WORK = """
import sys
import ntt_cli as ntt

sparse, tuned = "sparse.safetensors", "tuned.safetensors"
common = {"seed": int(sys.argv[1]), "device": "cpu", "limit": 100}
ntt.prune("model.py", sparsity=0.9, steps=8, mask_update_every=2, batch_size=16, output=sparse, **common)
ntt.finetune("model.py", checkpoint=sparse, epochs=1, output=tuned, **common)
"""

Cell = tuple[int, int, int]


def run(cell: Cell) -> dict[str, str]:
    """SHA-256 of what one run writes."""
    threads, seed, hash_seed = cell
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hash_seed)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.py").write_text(MODEL)
        command = [sys.executable, "-c", WORK, str(seed)]
        subprocess.run(command, cwd=folder, check=True, env=os.environ | own, stdout=subprocess.DEVNULL)
        return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in FILES}


def show(found: Mapping[Cell, list[dict[str, str]]]) -> bool:
    """Print the tables; whether the runs of each cell agree."""
    table = Table("threads", "seed", "hash seed", "runs", *FILES, box=None)
    alike = True
    for (threads, seed, hash_seed), runs in found.items():
        digests = [sorted({run[file] for run in runs}) for file in FILES]
        alike &= all(len(digest) == 1 for digest in digests)
        shown = [digest[0][:16] if len(digest) == 1 else f"{len(digest)} different" for digest in digests]
        table.add_row(str(threads), str(seed), str(hash_seed), str(len(runs)), *shown)
    console = Console()
    console.print(table)
    for name, place in (("threads", 0), ("seed", 1), ("hash seed", 2)):
        others = {tuple(part for i, part in enumerate(cell) if i != place) for cell in found}
        pairs = [
            [found[c] for c in found if tuple(p for i, p in enumerate(c) if i != place) == other] for other in others
        ]
        differing = sum(_differ(itertools.chain(*group)) for group in pairs)
        console.print(f"another {name}: the bytes differ in {differing} of {len(pairs)} groups of cells")
    return alike


def _differ(runs: Iterable[dict[str, str]]) -> bool:
    return len({tuple(run.values()) for run in runs}) > 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    for name, default in (("threads", "1,2"), ("seeds", "0,1"), ("hash-seeds", "0,1,2")):
        parser.add_argument(f"--{name}", default=default, type=lambda text: [int(part) for part in text.split(",")])
    options = parser.parse_args()
    cells = list(itertools.product(options.threads, options.seeds, options.hash_seeds))
    sys.exit(not show({cell: [run(cell) for _ in range(options.runs)] for cell in cells}))


if __name__ == "__main__":
    main()

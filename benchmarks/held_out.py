"""How accurate are a comparison's networks on training images that none of them has seen?

    python benchmarks/grid.py lenet5_caffe --out results/lenet5
    python benchmarks/held_out.py lenet5_caffe --out results/lenet5 [--keep FILE]
    python benchmarks/held_out.py lenet5_caffe --out benchmarks/results/lenet5_caffe_held_out.jsonl

The comparison took 12,000 images of Fashion-MNIST's 60,000, for training and to choose rates. The networks that it
ended with are measured on the other 48,000, where it measured them on the test set's 10,000: nothing is trained anew,
so that what changes is the noise of the images. The first table is that of grid.py; the second, by how much NTT is
ahead of each other method, seed by seed, and that mean's standard error. `--keep` writes what was measured to a file,
whose tables `--out` prints.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion_mnist import training_images
from grid import GRIDS, Result, keep, options_of, results_of, show, trials_of

import ntt_cli as ntt


def write_unseen(path: Path, limit: int) -> None:
    """The training images that `--limit` left out of the comparison, as an array."""
    images, labels = training_images()
    unseen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[limit:].sort().values
    np.savez(path, x_test=images[unseen].numpy(), y_test=labels[unseen].numpy())


def measured(comparison: Mapping[str, Any], result: Result, folder: Path, data: Path) -> Result:
    """The result of the trial in this folder, with the accuracy on the unseen images."""
    same = {name: comparison[name] for name in ("model", "model_arg", "image_size") if name in comparison}
    checkpoint = str(folder / f"tuned-{result['learning_rate']:g}.safetensors")
    accuracy = ntt.evaluate(**same, data=data, checkpoint=checkpoint, split="test", device="cpu").accuracy
    assert accuracy is not None
    print(f"{folder.name} {accuracy:.4f} (test set {result['accuracy']:.4f})", flush=True)
    return result | {"accuracy": accuracy}


def measure(comparison: Mapping[str, Any]) -> list[Result]:
    """All results of a comparison's folder, measured so."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "unseen.npz"
        write_unseen(data, comparison["limit"])
        trials = trials_of(Path(comparison["output"]))
        return [measured(comparison, result, folder, data) for folder, result in trials.items()]


def show_leads(results: Sequence[Result]) -> None:
    """Print by how many points NTT is ahead of each other method, with standard errors, as Markdown."""
    accuracies = {(one["method"], one["sparsity"], one["seed"]): 100 * one["accuracy"] for one in results}
    levels = sorted({level for _, level, _ in accuracies if level is not None})
    print("| `ntt` is ahead of | " + " | ".join(f"{level:.0%}" for level in levels) + " |")
    print("|---|" + "---|" * len(levels))
    for method in dict.fromkeys(name for name, _, _ in accuracies if name not in {"ntt", "dense"}):
        row = []
        for level in levels:
            seeds = [seed for name, sparsity, seed in accuracies if (name, sparsity) == (method, level)]
            leads = [accuracies["ntt", level, seed] - accuracies[method, level, seed] for seed in seeds]
            row.append(f"{statistics.fmean(leads):.2f} ± {statistics.stdev(leads) / math.sqrt(len(leads)):.2f}")
        print(f"| `{method}` | " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=GRIDS)
    parser.add_argument("--out", required=True, help="the folder of the comparison, or what --keep wrote")
    parser.add_argument("--keep", metavar="FILE", help="write what was measured to it, a line of JSON each")
    options = parser.parse_args()
    out = Path(options.out)
    comparison = options_of(options.network, out=str(out), methods=None, jobs=1)
    results = results_of(out, pretrained=False) if out.is_file() else measure(comparison)
    if options.keep:
        keep(results, Path(options.keep))
    show(results, {"": lambda result: result["accuracy"]})
    print()
    show_leads(results)


if __name__ == "__main__":
    main()

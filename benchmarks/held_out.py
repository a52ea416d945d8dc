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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from grid import GRIDS, config_of, keep, results_of, show

from ntt_cli.comparison.results import TrialResult
from ntt_cli.comparison.trial import Trial, folder_of
from ntt_cli.config import CompareConfig, DataOptions, EvaluateConfig
from ntt_cli.data import load_samples
from ntt_cli.data.samples import draw
from ntt_cli.evaluation import evaluate


def write_unseen(path: Path, config: CompareConfig) -> None:
    """The training images that `--limit` left out of the comparison, as an array."""
    samples = load_samples(DataOptions(data="fashion-mnist"), split="train")
    assert samples.labels is not None
    unseen = torch.ones(len(samples), dtype=torch.bool)
    unseen[draw(len(samples), config.limit)] = False
    chosen = unseen.nonzero().flatten()
    images = (255 * samples.inputs(chosen)).round().to(torch.uint8)
    np.savez(path, x_test=images.numpy(), y_test=samples.labels[chosen].numpy())


def measured(config: CompareConfig, result: TrialResult, data: Path) -> TrialResult:
    """The result, with the accuracy on the unseen images."""
    folder = folder_of(config, Trial(result.method, result.sparsity, result.seed))
    options = EvaluateConfig(
        model=config.model,
        model_arg=config.model_arg,
        data=str(data),
        image_size=config.image_size,
        checkpoint=str(folder / f"tuned-{result.learning_rate:g}.safetensors"),
        split="test",
        device="cpu",
    )
    accuracy = evaluate.run(options, lambda _: None).accuracy
    assert accuracy is not None
    print(f"{folder.name} {accuracy.top1:.4f} (test set {result.accuracy:.4f})", flush=True)
    return result.model_copy(update={"accuracy": accuracy.top1})


def measure(config: CompareConfig) -> list[TrialResult]:
    """All results of a comparison's folder, measured so."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "unseen.npz"
        write_unseen(data, config)
        return [measured(config, result, data) for result in results_of(Path(config.output), pretrained=False)]


def show_leads(results: Sequence[TrialResult]) -> None:
    """Print by how many points NTT is ahead of each other method, with standard errors, as Markdown."""
    accuracies = {(result.method, result.sparsity, result.seed): 100 * result.accuracy for result in results}
    levels = sorted({result.sparsity for result in results if result.sparsity is not None})
    print("| `ntt` is ahead of | " + " | ".join(f"{level:.0%}" for level in levels) + " |")
    print("|---|" + "---|" * len(levels))
    for method in dict.fromkeys(result.method for result in results if result.method not in {"ntt", "dense"}):
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
    config = config_of(options.network, out=str(out), methods=None, jobs=1)
    results = results_of(out, pretrained=False) if out.is_file() else measure(config)
    if options.keep:
        keep(results, Path(options.keep))
    show(results, {"": lambda result: result.accuracy})
    print()
    show_leads(results)


if __name__ == "__main__":
    main()

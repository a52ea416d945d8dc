"""The exponents of NTT's score. Accuracy on training images that were held out.

    python benchmarks/saliency.py lenet_300_100 --sparsity 0.95 --exponents 0.25,0.0625 [--seeds 5] [--steps 500]
    python benchmarks/saliency.py lenet_300_100 --sparsity 0.95 --affinities 0,5,10,20

The score is `|w| · E[(∂(v·f)/∂w)²]^exponent · exp(affinity · (r − 1))`. The exponent is 1 / 2(L − 1) for `L` layers
among a layer's own weights, which this script changes, and ¼ where layers compete for the weights
(`core/scores/saliency.py`). The affinity is at most 10, and 30 / (L − 1) (`core/scores/affinity.py`). All else is as in
allocations.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from allocations import accuracy, write_data
from grid import GRIDS, WARMUP

import ntt_cli as ntt


def accuracies(value: float, options: argparse.Namespace, folder: Path) -> list[float]:
    """In %, by seed, with this exponent or affinity."""
    score = ntt.Saliency(most_affinity=value) if options.affinities else ntt.Saliency(within=value)
    method = ntt.NTT(score=score, steps=options.steps)
    return [accuracy(method, seed, options, folder) for seed in range(1, options.seeds + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=GRIDS)
    parser.add_argument("--sparsity", type=float, required=True)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--exponents", help="of the sensitivities, with commas between")
    asked.add_argument("--affinities", help="the largest, with commas between")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of the transfer")
    parser.add_argument("--pretrained", action="store_true", help="prune trained networks, and train them no more")
    parser.add_argument("--pixels", type=int, default=28, help="of a side of an image: 28, 14 or 7")
    parser.add_argument("--warmup", type=float, default=WARMUP, help="as of ntt finetune")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data.npz", pixels=options.pixels)
        what = "affinity" if options.affinities else "exponent"
        print(f"| {what} | {options.network}, {options.sparsity:.0%} |\n|---|---|")
        for value in map(float, (options.affinities or options.exponents).split(",")):
            found = accuracies(value, options, folder)
            spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
            print(f"| {value:g} | {statistics.fmean(found):.2f}{spread} |", flush=True)


if __name__ == "__main__":
    main()

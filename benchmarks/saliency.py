"""How much should NTT's score see of a weight's effect on the logits? Accuracy on training images that were held out.

    python benchmarks/saliency.py lenet_300_100 --sparsity 0.95 [--exponents 0.25,0.0625] [--seeds 5] [--steps 500]

The score is `|w| · E[(∂(v·f)/∂w)²]^exponent`. Ours is 1 / 2(L − 1) for `L` layers among a layer's own weights, which
this script changes, and ¼ where layers compete for the weights (`core/scores/saliency.py`). All else is as in
allocations.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from unittest.mock import patch

from allocations import accuracy, write_data
from grid import GRIDS

from ntt_cli.workflows.transfer import choice


def accuracies(exponent: float, options: argparse.Namespace, folder: Path) -> list[float]:
    """In %, by seed."""
    with patch.object(choice, "within_layers", lambda _: exponent):
        return [accuracy("ntt", seed, options, folder) for seed in range(1, options.seeds + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=GRIDS)
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--exponents", default="0.25,0.125,0.0625")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of the transfer")
    parser.add_argument("--pretrained", action="store_true", help="prune trained networks, and train them no more")
    parser.add_argument("--pixels", type=int, default=28, help="of a side of an image: 28, 14 or 7")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data.npz", pixels=options.pixels)
        print(f"| exponent | {options.network}, {options.sparsity:.0%} |\n|---|---|")
        for exponent in map(float, options.exponents.split(",")):
            found = accuracies(exponent, options, folder)
            spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
            print(f"| {exponent:g} | {statistics.fmean(found):.2f}{spread} |", flush=True)


if __name__ == "__main__":
    main()

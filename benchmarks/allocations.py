"""How should NTT spread its weights over the layers? Accuracy on training images of Fashion-MNIST that were held out.

    python benchmarks/allocations.py lenet5_caffe --sparsity 0.99 [--seeds 3] [--steps 3000] [--methods ...]

Each network is pruned and trained on 10,000 images, 10 epochs of AdamW at 1e-2, and measured on 20,000 others. With
`--pretrained` it is trained first (at ntt's own rate), pruned, and measured as pruned. The test set is not touched, so
that a default can be chosen by what this prints: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion_mnist import training_images
from grid import GRIDS, WARMUP
from torch.nn import functional

import ntt_cli as ntt

TRAINING, HELD_OUT = 10_000, 20_000
RATE = 1e-2
ENTRIES = "ntt:allocation=global,ntt:allocation=erk,synflow,random"
TRANSFERS = {"ntt", "ntt-shuffled", "ntt-fresh"}
"""Methods that take steps."""


def write_data(path: Path, *, pixels: int = 28) -> None:
    """Training images in two parts, as arrays; fewer pixels are means of several."""
    all_images, labels = training_images()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))
    arrays: dict[str, Any] = {}
    for part, chosen in (("train", order[:TRAINING]), ("test", order[TRAINING:][:HELD_OUT])):
        images = functional.avg_pool2d(all_images[chosen].float() / 255, 28 // pixels)
        arrays |= {f"x_{part}": images.numpy(), f"y_{part}": labels[chosen].numpy()}
    np.savez(path, **arrays)


def model_of(network: str) -> dict[str, Any]:
    """What `--model` and `--model-arg` say of one of grid.py's networks."""
    changes = GRIDS[network][-1]
    return {"model": f"sample_models/{network}.py"} | {k: v for k, v in changes.items() if k in {"model", "model_arg"}}


def trained_accuracy(model: dict[str, Any], sparse: str, seed: int, folder: Path, *, warmup: float = WARMUP) -> float:
    """In %, on the images held out, of a sparse network after its training with labels."""
    tuned = ntt.finetune(
        **model,
        data=folder / "data.npz",
        checkpoint=sparse,
        learning_rate=RATE,
        warmup=warmup,
        validation=0,
        seed=seed,
        device="cpu",
    )
    return measured_accuracy(tuned, folder)


def measured_accuracy(network: ntt.SparseNetwork, folder: Path) -> float:
    """In %, on the images held out."""
    report = ntt.evaluate(network, folder / "data.npz", device="cpu")
    assert report.accuracy is not None
    return 100 * report.accuracy


def accuracy(entry: str | ntt.Method, seed: int, options: argparse.Namespace, folder: Path) -> float:
    """In %, of one network."""
    model, data = model_of(options.network), folder / "data.npz"
    dense, sparse = folder / "dense.safetensors", folder / "sparse.safetensors"
    own: dict[str, Any] = {"method": entry}
    if isinstance(entry, str) and entry.partition(":")[0] in TRANSFERS and ":steps=" not in entry:
        own["steps"] = options.steps
    if options.pretrained:
        ntt.finetune(**model, data=data, warmup=WARMUP, validation=0, output=dense, seed=seed, device="cpu", force=True)
        own["weights"] = str(dense)
    pruned = ntt.prune(
        **model, data=data, sparsity=options.sparsity, output=sparse, seed=seed, device="cpu", force=True, **own
    )
    if options.pretrained:
        return measured_accuracy(pruned, folder)
    return trained_accuracy(model, str(sparse), seed, folder, warmup=options.warmup)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=GRIDS)
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="of the transfer; its default otherwise")
    parser.add_argument("--methods", default=ENTRIES)
    parser.add_argument("--pixels", type=int, default=28, help="of a side of an image: 28, 14 or 7")
    parser.add_argument("--pretrained", action="store_true", help="prune trained networks, and train them no more")
    parser.add_argument("--warmup", type=float, default=WARMUP, help="as of ntt finetune")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data.npz", pixels=options.pixels)
        print(f"| method | {options.network}, {options.sparsity:.0%} |\n|---|---|")
        for entry in options.methods.split(","):
            found = [accuracy(entry, seed, options, Path(folder)) for seed in range(1, options.seeds + 1)]
            spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
            print(f"| `{entry}` | {statistics.fmean(found):.2f}{spread} |", flush=True)


if __name__ == "__main__":
    main()

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
from grid import GRIDS, WARMUP
from torch.nn import functional

from ntt_cli.config import DataOptions, EvaluateConfig, FinetuneConfig, PruneConfig, method_class, method_of
from ntt_cli.data import load_samples
from ntt_cli.evaluation import evaluate
from ntt_cli.pruning import prune
from ntt_cli.training import finetune

TRAINING, HELD_OUT = 10_000, 20_000
RATE = 1e-2
ENTRIES = "ntt:allocation=global,ntt:allocation=erk,synflow,random"


def write_data(path: Path, *, pixels: int = 28) -> None:
    """Training images in two parts, as arrays; fewer pixels are means of several."""
    samples = load_samples(DataOptions(data="fashion-mnist"), split="train")
    assert samples.labels is not None
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(7))
    arrays: dict[str, Any] = {}
    for part, chosen in (("train", order[:TRAINING]), ("test", order[TRAINING:][:HELD_OUT])):
        images = functional.avg_pool2d(samples.inputs(chosen), 28 // pixels)
        arrays |= {f"x_{part}": images.numpy(), f"y_{part}": samples.labels[chosen].numpy()}
    np.savez(path, **arrays)


def model_of(network: str) -> dict[str, Any]:
    """What `--model` and `--model-arg` say of one of grid.py's networks."""
    changes = GRIDS[network][-1]
    return {"model": f"sample_models/{network}.py"} | {k: v for k, v in changes.items() if k in {"model", "model_arg"}}


def _on_data(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    return model | {"data": str(folder / "data.npz"), "device": "cpu"}


def trained_accuracy(model: dict[str, Any], sparse: str, seed: int, folder: Path, *, warmup: float = WARMUP) -> float:
    """In %, on the images held out, of a sparse network after its training with labels."""
    same = _on_data(model, folder)
    tuned = str(folder / "tuned.safetensors")
    training: dict[str, Any] = {
        "checkpoint": sparse,
        "learning_rate": RATE,
        "warmup": warmup,
        "validation": 0,
        "output": tuned,
    }
    finetune.run(FinetuneConfig(**same, **training, seed=seed, force=True), lambda _: None)
    return measured_accuracy(model, tuned, folder)


def measured_accuracy(model: dict[str, Any], checkpoint: str, folder: Path) -> float:
    """In %, on the images held out."""
    same = _on_data(model, folder)
    report = evaluate.run(EvaluateConfig(**same, checkpoint=checkpoint, split="test"), lambda _: None)
    assert report.accuracy is not None
    return 100 * report.accuracy.top1


def accuracy(entry: str, seed: int, options: argparse.Namespace, folder: Path) -> float:
    """In %, of one network."""
    name, own = method_of(entry)
    model = model_of(options.network)
    same = _on_data(model, folder)
    dense, sparse = (str(folder / f"{which}.safetensors") for which in ("dense", "sparse"))
    pruning: dict[str, Any] = {
        "method": name,
        "sparsity": options.sparsity,
        "output": sparse,
        "seed": seed,
        "force": True,
    }
    if method_class(name).moves_weights:
        pruning["steps"] = options.steps
    if options.pretrained:
        training = FinetuneConfig(**same, warmup=WARMUP, validation=0, output=dense, seed=seed, force=True)
        finetune.run(training, lambda _: None)
        pruning["weights"] = dense
    prune.run(PruneConfig(**(same | pruning | own)), lambda _: None)
    if options.pretrained:
        return measured_accuracy(model, sparse, folder)
    return trained_accuracy(model, sparse, seed, folder, warmup=options.warmup)


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

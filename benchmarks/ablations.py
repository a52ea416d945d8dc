"""What is each part of NTT's score worth, from random weights? Accuracy on training images that were held out.

    python benchmarks/ablations.py --data fashion-mnist --data mnist.npz --data CIFAR-10 [--results FILE]
        [--network lenet5_caffe] [--sparsity 0.97] [--seeds 3] [--steps 1000] [--only "no affinity"]
    python benchmarks/ablations.py --show --results benchmarks/results/others/ablations.jsonl

`--data` is `fashion-mnist`, an `.npz` file of MNIST with `x_train` and `y_train`, or a folder of CIFAR-10 with the
folder `train` of images, one folder a class. Each network is pruned and trained on 10,000 training images, 10 epochs of
AdamW at 1e-2, and measured on 10,000 others. The test set is not touched, so that a default can be chosen by what this
prints.

Each variant changes one thing of `ntt` as it is. A cell is a JSON line in `--results`, and what is there is not run
again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from allocations import trained_accuracy
from fashion_mnist import training_images
from gates import TransferGates, Under
from pretrained_subjects import Sources, pictures

import ntt_cli as ntt
from ntt_cli.methods.cts_kl import CTSKL
from ntt_cli.methods.ntt.score import MaskScores, ScoreContext
from ntt_cli.methods.synflow import synflow_scores

TRAINING, HELD_OUT = 10_000, 10_000
NAMES = {"lenet_300_100": "LeNet-300-100", "lenet5_caffe": "LeNet-5"}
NETWORKS = {"lenet_300_100": (0.97, 0.99), "lenet5_caffe": (0.97, 0.99)}


@dataclass(frozen=True)
class Flow:
    """SynFlow's score, taken at each mask update of the student: `|w · ∂R/∂w|`, where pruned weights may return."""

    least_share: float = 0.0

    def __call__(self, context: ScoreContext) -> MaskScores:
        one = context.transfer.inputs.batch(torch.arange(1))
        assert isinstance(one, torch.Tensor)
        ones = torch.ones_like(one, dtype=torch.float64)
        student = context.student
        buffers = {name: b.double() if b.is_floating_point() else b for name, b in student.apply.buffers.items()}
        apply = context.transfer.teacher.bind(buffers)
        kept = student.masked_params
        flow = synflow_scores(apply, kept, context.names, ones)
        # The gradient alone, times the value that a pruned entry would return with.
        with torch.enable_grad():
            leaves = {name: p.double().abs().requires_grad_() for name, p in kept.items()}
            found = torch.autograd.grad(apply(leaves, ones).sum(), [leaves[name] for name in context.names])
        scores = {
            name: torch.where(
                student.mask_bits[name].bool(), flow[name], student.params[name].detach().abs() * gradient
            )
            for name, gradient in zip(context.names, found, strict=True)
        }
        return MaskScores(lambda: scores, lambda counts: scores)


VARIANTS: dict[str, Callable[[], Any]] = {
    "ntt": lambda: ntt.NTT(),
    "no affinity": lambda: ntt.NTT(score=ntt.Saliency(most_affinity=0.0)),
    "exponent 1/4 within": lambda: ntt.NTT(score=ntt.Saliency(within=0.25, most_affinity=0.0)),
    "exponent 1/2, both": lambda: ntt.NTT(score=ntt.Saliency(within=0.5, across=0.5, most_affinity=0.0)),
    "no least share": lambda: ntt.NTT(score=ntt.Saliency(least_share=0.0)),
    "counts by ERK": lambda: ntt.NTT(allocation="erk"),
    "counts by score": lambda: ntt.NTT(allocation="global"),
    "magnitude": lambda: ntt.NTT(score="magnitude"),
    "flow": lambda: ntt.NTT(score=Flow(), allocation="global"),
    "SynFlow's mask": lambda: "ntt:mask=synflow",
    "gates by KL": lambda: Under(CTSKL),
    "gates by NTT's loss": lambda: Under(TransferGates),
    "active": lambda: "ntt:kernel-params=active",
    "ntt-fresh": lambda: "ntt-fresh",
    "synflow": lambda: "synflow",
    "random": lambda: "random",
}
"""What `ntt.prune` takes as its method. The last two take no steps."""

STEPLESS = {"synflow", "random"}


class Key(NamedTuple):
    """What a row is of."""

    data: str
    network: str
    sparsity: float
    variant: str
    seed: int
    steps: int


def named(data: str) -> str:
    if data == "fashion-mnist":
        return "Fashion-MNIST"
    return "MNIST" if data.endswith(".npz") else "CIFAR-10"


def arrays(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Training images, uint8 `[n, channels, height, width]`, and labels."""
    if data == "fashion-mnist":
        images, labels = training_images()
        return images.numpy(), labels.numpy()
    if data.endswith(".npz"):
        with np.load(data) as found:
            return found["x_train"], found["y_train"]
    images, labels = pictures(Sources(data=Path(data), weights=None), "train", TRAINING + HELD_OUT)
    return images.numpy(), labels.numpy()


def write_data(data: str, path: Path) -> tuple[int, ...]:
    """Two parts of the training images, as arrays, and the shape of an image."""
    images, labels = arrays(data)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7)).numpy()
    parts: dict[str, Any] = {}
    for part, chosen in (("train", order[:TRAINING]), ("test", order[TRAINING:][:HELD_OUT])):
        parts |= {f"x_{part}": images[chosen].astype(np.float32) / 255, f"y_{part}": labels[chosen]}
    np.savez(path, **parts)
    return images.shape[1:]


def model_of(network: str, shape: tuple[int, ...]) -> dict[str, Any]:
    channels, side = shape[0], shape[1]
    if network == "lenet_300_100":
        return {"model": "sample_models/lenet_300_100.py", "model_arg": [f"inputs={channels * side * side}"]}
    return {"model": f"sample_models/{network}.py", "model_arg": [f"channels={channels}", f"size={side}"]}


def accuracy(key: Key, model: dict[str, Any], folder: Path) -> float:
    """In %, of one network."""
    sparse = folder / "sparse.safetensors"
    steps: dict[str, Any] = {} if key.variant in STEPLESS else {"steps": key.steps}
    ntt.prune(
        **model,
        data=folder / "data.npz",
        method=VARIANTS[key.variant](),
        sparsity=key.sparsity,
        output=sparse,
        seed=key.seed,
        device="cpu",
        force=True,
        **steps,
    )
    return trained_accuracy(model, str(sparse), key.seed, folder)


def keys_of(options: argparse.Namespace) -> Iterator[Key]:
    """The cells, all variants of the first seed first."""
    for seed in range(1, options.seeds + 1):
        for network in options.network or NETWORKS:
            for sparsity in options.sparsity or NETWORKS[network]:
                for variant in options.only or VARIANTS:
                    for data in options.data:
                        steps = 0 if variant in STEPLESS else options.steps
                        yield Key(named(data), network, sparsity, variant, seed, steps)


def read(path: Path | None) -> dict[Key, float]:
    lines = path.read_text().splitlines() if path and path.exists() else []
    return {Key(*(row[part] for part in Key._fields)): row["accuracy"] for row in map(json.loads, lines)}


def show(rows: dict[Key, float]) -> None:
    """Print the accuracies of `ntt`, and by how much each variant differs from it on the same seeds, as Markdown."""
    columns = sorted({(key.network, key.sparsity, key.data) for key in rows}, reverse=True)
    heads = [f"{NAMES[network]}, {sparsity:.0%}, {data}" for network, sparsity, data in columns]
    print("| variant | " + " | ".join(heads) + " | mean |")
    print("|---|" + "---|" * (len(columns) + 1))
    for variant in VARIANTS:
        cells, means = [], []
        for network, sparsity, data in columns:
            own = {
                key.seed: value
                for key, value in rows.items()
                if (key.network, key.sparsity, key.data, key.variant) == (network, sparsity, data, variant)
            }
            base = {
                key.seed: value
                for key, value in rows.items()
                if (key.network, key.sparsity, key.data, key.variant) == (network, sparsity, data, "ntt")
            }
            values = (
                list(own.values()) if variant == "ntt" else [own[seed] - base[seed] for seed in own if seed in base]
            )
            if not values:
                cells.append("")
                continue
            means.append(statistics.fmean(values))
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{means[-1]:{'.2f' if variant == 'ntt' else '+.2f'}}{spread}")
        if any(cells):
            mean = "" if variant == "ntt" else f"{statistics.fmean(means):+.2f}"
            print(f"| {variant} | " + " | ".join(cells) + f" | {mean} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--sparsity", type=float, action="append")
    parser.add_argument("--only", action="append", choices=VARIANTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--show", action="store_true", help="print the table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(options.results)
    with tempfile.TemporaryDirectory() as name:
        folders: dict[str, tuple[Path, tuple[int, ...]]] = {}
        for data in () if options.show else options.data:
            folder = Path(name) / named(data)
            folder.mkdir()
            folders[named(data)] = folder, write_data(data, folder / "data.npz")
        for key in () if options.show else keys_of(options):
            if key in rows:
                continue
            folder, shape = folders[key.data]
            rows[key] = accuracy(key, model_of(key.network, shape), folder)
            print(json.dumps(key._asdict() | {"accuracy": rows[key]}), flush=True)
            if options.results:
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(key._asdict() | {"accuracy": rows[key]}) + "\n")
    show(rows)


if __name__ == "__main__":
    main()

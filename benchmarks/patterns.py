"""2:4 on trained networks without labels, as pruned: NTT beside one-shot magnitude, SparseGPT and OBC.

    python benchmarks/patterns.py [--mnist FILE] [--data DIR --weights DIR] [--pattern 2:4] [--steps 2000] [--seeds 1]
        [--only ntt] [--on validation] [--results FILE]

`--mnist` is an .npz file with `x_train`, `y_train`, `x_test` and `y_test`: LeNet-300-100 is trained on it, 10 epochs.
`--data` has the folders `train` and `test` of CIFAR-10 images, one folder a class, and `--weights` has
`resnet20.safetensors` (akamaster/pytorch_resnet_cifar10).

Methods see 10,000 training images without labels. The figure is the accuracy on the test images, of CIFAR-10 on 2,000
of them. For choices, `--on validation` measures it on 2,000 other training images. Every checkpoint is verified, group
by group. One thread; seconds are the processor's. A cell is a JSON line in `--results`, and is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mnist
import torch
from pretrained_subjects import Sources, outputs_of, pictures
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import ntt_cli as ntt

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEEN, JUDGED = 10_000, 2_000

LINES: dict[str, dict[str, Any]] = {
    "ntt": {},
    "ntt, schedule constant": {"schedule": "constant"},
    "obc": {"method": "obc"},
    "sparsegpt": {"method": "sparsegpt"},
    "sparsegpt + steps": {"method": "sparsegpt"},
    "magnitude": {"method": "magnitude"},
}
"""The options of each line. NTT and `+ steps` take `--steps`, of 128 samples."""


class Subject(NamedTuple):
    """A trained network, what it is pruned on, how these inputs are normalised, and what it is judged by."""

    network: nn.Module
    inputs: Tensor
    normalised: dict[str, Any]
    accuracy: Callable[[nn.Module], float]


def judged_by(images: Tensor, labels: Tensor) -> Callable[[nn.Module], float]:
    return lambda network: (outputs_of(network, images).argmax(1) == labels).float().mean().item()


def lenet(options: argparse.Namespace) -> Subject:
    images, labels = mnist.images_of(options.mnist, "train")
    network = mnist.trained("lenet_300_100", images[:-JUDGED], labels[:-JUDGED])
    shown, classes = (images[-JUDGED:], labels[-JUDGED:])
    if options.on == "test":
        shown, classes = mnist.images_of(options.mnist, "test")
    return Subject(network, images[:SEEN], mnist.NORMALISED, judged_by(mnist.normalised(shown), classes))


def resnet(options: argparse.Namespace) -> Subject:
    sources = Sources(options.data, options.weights)
    network = ntt.load(options.weights / "resnet20.safetensors", "sample_models/resnet_cifar.py:resnet20").model
    images, labels = pictures(sources, "train", SEEN + JUDGED)
    shown, of_them = images[SEEN:], labels[SEEN:]
    if options.on == "test":
        shown, of_them = pictures(sources, "test", JUDGED)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    judge = judged_by((shown.float() / 255 - mean) / std, of_them)
    return Subject(network, images[:SEEN], {"mean": MEAN, "std": STD}, judge)


def row_of(subject: Subject, line: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The accuracy as pruned, the seconds, and the groups that `ntt verify` counted."""
    steps = {"steps": options.steps, "batch_size": 128} if line.startswith("ntt") or "+ steps" in line else {}
    common = {"pattern": options.pattern, "seed": seed, "device": "cpu"} | subject.normalised
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/sparse.safetensors"
        result = ntt.prune(subject.network, subject.inputs, output=path, **common, **steps, **LINES[line])
        seconds, groups = time.process_time() - begun, ntt.verify(path).groups
    accuracy = subject.accuracy(result.model)
    return {"accuracy": accuracy, "sparsity": result.report.sparsity, "seconds": seconds, "groups": groups} | steps


def table(rows: list[dict[str, Any]]) -> Table:
    drawn = Table("network", "method", "accuracy, %", "sparsity, %", "groups", "steps", "s", box=box.MARKDOWN)
    for network, line in dict.fromkeys((row["network"], row["line"]) for row in rows):
        own = [row for row in rows if (row["network"], row["line"]) == (network, line)]
        values = [100 * row["accuracy"] for row in own]
        mean = f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(own) > 1 else "")
        groups = ", ".join(f"{count:,} of {pattern}" for pattern, count in own[0].get("groups", {}).items())
        sparsity, seconds = 100 * own[0].get("sparsity", 0), max(row.get("seconds", 0) for row in own)
        drawn.add_row(network, line, mean, f"{sparsity:.1f}", groups, str(own[0].get("steps", "")), f"{seconds:.0f}")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=LINES, action="append", help="a line of the table alone; repeatable")
    parser.add_argument("--on", choices=("test", "validation"), default="test")
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    named: dict[str, tuple[Path | None, Callable[[argparse.Namespace], Subject]]] = {
        "LeNet-300-100": (options.mnist, lenet),
        "ResNet-20": (options.data and options.weights, resnet),
    }
    there = options.results.read_text().splitlines() if options.results and options.results.exists() else []
    rows = [json.loads(line) for line in there]
    for network, (source, prepare) in named.items():
        subject = prepare(options) if source else None
        for seed in range(1, options.seeds + 1) if subject else ():
            for line in ("dense", *(options.only or LINES)):
                takes = options.steps if line.startswith("ntt") or "+ steps" in line else 0
                key = {"network": network, "line": line, "seed": seed, "on": options.on, "pattern": options.pattern}
                key["length"] = takes
                if any(key.items() <= row.items() for row in rows):
                    continue
                assert subject is not None
                dense = line == "dense"
                found = (
                    {"accuracy": subject.accuracy(subject.network)} if dense else row_of(subject, line, seed, options)
                )
                rows.append(key | found | {"torch": torch.__version__})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()

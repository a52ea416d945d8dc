"""A trained network pruned without labels, as pruned: NTT beside what one would use instead.

    python benchmarks/trained_baselines.py --data DIR --weights DIR [--network resnet20] [--results FILE]
        [--only obc] [--sparsity 0.9] [--seeds 3] [--steps 400 | --seconds 360] [--batch-size 64] [--images 1000]
        [--on validation]
    python benchmarks/trained_baselines.py --mnist FILE --network lenet_300_100 [--results FILE] …
    python benchmarks/trained_baselines.py --show --results benchmarks/results/others/trained_baselines.jsonl

`--data` has the folders `train` and `test` of CIFAR-10 images, one folder a class; `--weights` has
`resnet20.safetensors` and `resnet56.safetensors` (akamaster/pytorch_resnet_cifar10). `--mnist` is an .npz file with
`x_train`, `y_train`, `x_test` and `y_test`: LeNets are trained on it, 10 epochs. Methods see 10,000 training images, or
as many as `--images` says, without labels. The figure is the accuracy on all 10,000 test images. For choices, `--on
validation` measures it on 2,000 other training images, which no LeNet was trained on.

`+ steps` is a method followed by distillation on the outputs under its mask. All lines with steps take as many, of the
same batches, at the same rate. With `--seconds` each takes what fits into that time, the method before the steps and
the estimate of batch-norm statistics included: the line then runs once before, for 200 steps, to know what a step
takes, and all seeds take as many. Magnitude, like all lines, has its batch-norm statistics estimated for the sparse
network.

One thread. Seconds are the processor's: three minutes on two cores are 360. A cell is a JSON line in `--results`, and
what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
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

CIFAR: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NAMES = {
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "lenet_300_100": "LeNet-300-100 (MNIST)",
    "lenet5_caffe": "LeNet-5 (MNIST)",
}
SEEN, JUDGED = 10_000, {"test": 10_000, "validation": 2_000}
TIMED = 200
"""Steps of the run that tells what a step takes."""

LINES: dict[str, tuple[str, bool]] = {
    "dense": ("dense", False),
    "ntt": ("ntt", True),
    "gmp": ("gmp", True),
    "obc + steps": ("obc", True),
    "sparsegpt + steps": ("sparsegpt", True),
    "reconstruct + steps": ("reconstruct", True),
    "obc": ("obc", False),
    "sparsegpt": ("sparsegpt", False),
    "reconstruct": ("reconstruct", False),
    "asr": ("asr", False),
    "magnitude": ("magnitude", False),
    "wanda": ("wanda", False),
}
"""The method of each line, and whether it takes steps."""

Row = dict[str, Any]
Progress = Callable[[object], None]


class Key(NamedTuple):
    """What a row is of. `length` is `400 steps` or `180 s`, and empty for a line without steps."""

    network: str
    line: str
    sparsity: float
    seed: int
    length: str
    batch: int
    on: str
    images: int


class Subject:
    """A trained network, what it is pruned on and judged by."""

    def __init__(self, network: nn.Module, inputs: Tensor, normalised: dict[str, Any], judged: tuple[Tensor, Tensor]):
        self.network, self.inputs, self.normalised = network, inputs, normalised
        self.shown, self.labels = judged
        self.fitting: dict[Key, int] = {}

    def accuracy(self, network: nn.Module) -> float:
        return (outputs_of(network, self.shown).argmax(1) == self.labels).float().mean().item()

    def pruned(
        self, key: Key, steps: int | None, progress: Callable[[object], None] | None = None
    ) -> tuple[Any, float]:
        """The sparse network, and the seconds that it took."""
        options: dict[str, Any] = {} if steps is None else {"steps": steps, "batch_size": key.batch}
        begun = time.process_time()
        result = ntt.prune(
            self.network,
            self.inputs,
            sparsity=key.sparsity,
            method=LINES[key.line][0],
            seed=key.seed,
            device="cpu",
            progress=progress,
            **self.normalised,
            **options,
        )
        return result.model, time.process_time() - begun

    def row(self, key: Key, steps: int | None, seconds: float | None) -> Row:
        if key.line == "dense":
            return {"accuracy": self.accuracy(self.network)}
        if not LINES[key.line][1]:
            steps = None
        elif seconds is not None:
            steps = self.steps_in(key, seconds)
            if steps < 1:
                return {"error": f"takes more than {seconds:g} s before its first step"}
        network, taken = self.pruned(key, steps)
        return {"accuracy": self.accuracy(network), "seconds": taken, "steps": steps}

    def steps_in(self, key: Key, seconds: float) -> int:
        """The number of steps that fit into the time; the same for all seeds."""
        line = key._replace(seed=0)
        if line not in self.fitting:
            times: list[float] = []

            def note(event: object) -> None:
                if type(event).__name__ in {"TransferStarted", "StepsDone"}:
                    times.append(time.process_time())

            taken = self.pruned(key, TIMED, note)[1]
            of_steps = times[-1] - times[0]
            self.fitting[line] = int((seconds - taken + of_steps) / (of_steps / TIMED))
        return self.fitting[line]


def resnet(name: str, sources: Sources, on: str, count: int) -> Subject:
    assert sources.weights
    network = ntt.load(sources.weights / f"{name}.safetensors", f"sample_models/resnet_cifar.py:{name}").model
    drawn = max(count, SEEN)
    images, labels = pictures(sources, "train", drawn + JUDGED["validation"])
    shown, classes = images[drawn:], labels[drawn:]
    if on == "test":
        shown, classes = pictures(sources, "test", JUDGED[on])
    mean, std = (torch.tensor(CIFAR[numbers])[:, None, None] for numbers in ("mean", "std"))
    return Subject(network, images[:count], CIFAR, ((shown.float() / 255 - mean) / std, classes))


def lenet(name: str, path: Path, on: str, count: int) -> Subject:
    images, labels = mnist.images_of(path, "train")
    held = JUDGED["validation"]
    network = mnist.trained(name, images[:-held], labels[:-held])
    shown, classes = mnist.images_of(path, "test") if on == "test" else (images[-held:], labels[-held:])
    return Subject(network, images[:-held][:count], mnist.NORMALISED, (mnist.normalised(shown), classes))


def keys_of(options: argparse.Namespace) -> Iterator[Key]:
    """The cells, all lines of the first seed first."""
    length = f"{options.seconds:g} s" if options.seconds else f"{options.steps} steps"
    for seed in range(1, options.seeds + 1):
        for sparsity in options.sparsity:
            for line in options.only or LINES:
                takes = LINES[line][1]
                at, drawn, images = (0.0, 0, 0) if line == "dense" else (sparsity, seed, options.images)
                yield Key(
                    options.network,
                    line,
                    at,
                    drawn,
                    length * takes,
                    options.batch_size * takes,
                    options.on,
                    images,
                )


def read(path: Path | None) -> dict[Key, Row]:
    lines = path.read_text().splitlines() if path and path.exists() else []
    return {Key(*(row[part] for part in Key._fields)): row for row in map(json.loads, lines)}


def table(rows: dict[Key, Row]) -> Table:
    """A line a method and what it was given, with accuracies in percent and the most seconds that a cell took."""
    levels = sorted({key.sparsity for key in rows})
    heads = [f"{level:.0%}" if level else "dense" for level in levels]
    drawn = Table("network", "method", "images", "given", *heads, "steps", "s", box=box.MARKDOWN)
    networks, lines = list(NAMES), list(LINES)
    order = sorted(
        rows, key=lambda key: (networks.index(key.network), bool(key.length), key.images, lines.index(key.line))
    )
    for kind in dict.fromkeys((key.network, key.line, key.images, key.length) for key in order):
        of_line = {key: row for key, row in rows.items() if (key.network, key.line, key.images, key.length) == kind}
        cells = [in_words([row for key, row in of_line.items() if key.sparsity == level]) for level in levels]
        counts = [row["steps"] for row in of_line.values() if row.get("steps")]
        taken = max((row["seconds"] for row in of_line.values() if "seconds" in row), default=0.0)
        steps = " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else ""
        network, line, images, length = kind
        seen = "" if line == "dense" else f"{images:,}"
        drawn.add_row(NAMES[network], line, seen, length, *cells, steps, f"{taken:,.0f}" if taken else "")
    return drawn


def in_words(rows: list[Row]) -> str:
    found = [100 * row["accuracy"] for row in rows if "accuracy" in row]
    if not found:
        return next((row["error"] for row in rows), "")
    return f"{statistics.fmean(found):.1f}" + (f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--network", choices=NAMES, default="resnet20")
    parser.add_argument("--only", choices=LINES, action="append", help="a line of the table alone; repeatable")
    parser.add_argument("--sparsity", type=float, action="append", help="default: 0.8, 0.9 and 0.95")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, help="that each line may take, in place of --steps")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=SEEN, help="without labels, that methods see")
    parser.add_argument("--on", choices=("test", "validation"), default="test")
    parser.add_argument("--show", action="store_true", help="print the table of what is in --results alone")
    options = parser.parse_args()
    if options.show:
        Console(width=160).print(table(read(options.results)))
        return
    options.sparsity = options.sparsity or [0.8, 0.9, 0.95]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, keys = read(options.results), list(dict.fromkeys(keys_of(options)))
    if missing := [key for key in keys if key not in rows]:
        if options.network.startswith("lenet"):
            subject = lenet(options.network, options.mnist, options.on, options.images)
        else:
            sources = Sources(options.data, options.weights)
            subject = resnet(options.network, sources, options.on, options.images)
        subject.fitting = {key._replace(seed=0): row["steps"] for key, row in rows.items() if row.get("steps")}
    for key in missing:
        rows[key] = key._asdict() | subject.row(key, options.steps, options.seconds) | {"torch": torch.__version__}
        print(json.dumps(rows[key]), file=sys.stderr, flush=True)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(rows[key]) + "\n")
    Console(width=160).print(table({key: rows[key] for key in keys}))


if __name__ == "__main__":
    main()

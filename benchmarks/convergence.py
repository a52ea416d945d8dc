"""Does a sparse network learn as fast as the dense one? Accuracy over training iterations, MNIST at 97% sparsity.

    python benchmarks/convergence.py lenet_300_100 --data mnist.npz --results FILE [--seeds 5] [--only ntt]
    python benchmarks/convergence.py lenet_300_100 --data mnist.npz --results FILE --only paper --seeds 2 --epochs 50
    python benchmarks/convergence.py --show --results benchmarks/results/convergence.jsonl [--picture FILE.svg]

`--data` is an .npz file with `x_train`, `y_train`, `x_test` and `y_test`. All methods start from the same random
weights and see all training images, without labels. `paper` takes 20 epochs of them, as its authors did, or as many as
`--transfer` says. `lenet5_relu` is LeNet-5 as the authors built it, `lenet5_caffe` as Caffe did.

Each network is then trained as the authors trained theirs: batches of 64, Adam, a constant rate. That rate is 1e-3, and
in a second run each method's best: the one with the highest accuracy after 200 iterations on 5,000 training images held
out, first seed. Networks for the test are trained on all training images. `--epochs` trains at 1e-3 alone, as long as
it says, which is the paper's other figure.

One thread. A training is a JSON line in `--results`, and what is there is not run again. Pruned networks are kept in
the folder of the same name.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from convergence_results import (
    METHODS,
    NETWORKS,
    PAPER_RATE,
    POINTS,
    Key,
    Rows,
    Subject,
    best_rate,
    choices,
    draw_picture,
    read,
    show_curves,
    show_ends,
    show_leads,
)
from networks import build
from pretrained_subjects import outputs_of
from torch import Tensor, nn
from torch.nn import functional

import ntt_cli as ntt

SPARSITY, BATCH, HELD_OUT = 0.97, 64, 5_000


class Labelled(NamedTuple):
    """Normalised images `[n, 1, 28, 28]` and their classes `[n]`."""

    inputs: Tensor
    labels: Tensor


class Images:
    """Both parts of MNIST, normalised by the training images, of which some may be held out."""

    def __init__(self, path: Path) -> None:
        found = {name: torch.from_numpy(values) for name, values in np.load(path).items()}
        train, test = (found[name].float().view(-1, 1, 28, 28) / 255 for name in ("x_train", "x_test"))
        mean, std = train.mean(), train.std()
        self.train = Labelled((train - mean) / std, found["y_train"].long())
        self.test = Labelled((test - mean) / std, found["y_test"].long())

    def parts(self, on: str) -> tuple[Labelled, Labelled]:
        """What a network is trained on and judged by."""
        if on == "test":
            return self.train, self.test
        order = torch.randperm(len(self.train.labels), generator=torch.Generator().manual_seed(0))
        held, others = order[:HELD_OUT], order[HELD_OUT:]
        return Labelled(*(part[others] for part in self.train)), Labelled(*(part[held] for part in self.train))


def pruned(key: Key, images: Images, folder: Path, *, compiled: bool) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The network as its training begins, and its masks; pruned once for all trainings."""
    folder_of = "benchmarks" if key.network == "lenet5_relu" else "sample_models"
    dense = build(f"{folder_of}/{key.network}.py", seed=key.seed)
    if key.method == "dense":
        return dense, {}
    path = folder / f"{key.network}-{key.method}-{key.seed}-{key.transfer}.safetensors"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        options: dict[str, Any] = {"trained": False, "seed": key.seed, "device": "cpu"} | METHODS[key.method][1]
        if key.transfer:
            options["epochs"] = key.transfer
        if compiled and key.method in {"ntt", "paper"}:
            options["compile"] = True
        ntt.prune(dense, images.train.inputs, sparsity=SPARSITY, output=path, **options)
    found = ntt.load(path, dense)
    return found.model, found.masks


def batches(count: int, iterations: int, *, seed: int) -> Iterator[Tensor]:
    """Positions of samples: one random order after another, cut into whole batches."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(iterations):
        if len(order) < BATCH:
            order = torch.randperm(count, generator=generator)
        yield order[:BATCH]
        order = order[BATCH:]


def accuracies(
    network: nn.Module, masks: Mapping[str, Tensor], parts: tuple[Labelled, Labelled], key: Key
) -> dict[str, float]:
    """Train a copy of the network, its zeros held, and measure it after each of the iterations in `POINTS`."""
    network, (train, judged) = copy.deepcopy(network), parts
    optimiser = torch.optim.Adam(network.parameters(), lr=key.rate, fused=True)
    parameters = dict(network.named_parameters())
    found = {}
    for iteration, batch in enumerate(batches(len(train.labels), key.iterations, seed=key.seed), 1):
        optimiser.zero_grad()
        functional.cross_entropy(network(train.inputs[batch]), train.labels[batch]).backward()
        for name, mask in masks.items():
            gradient = parameters[name].grad
            assert gradient is not None
            gradient.mul_(mask)
        optimiser.step()
        if iteration == key.iterations or (iteration in POINTS and key.on == "test"):
            right = outputs_of(network, judged.inputs).argmax(1) == judged.labels
            found[str(iteration)] = round(right.double().mean().item(), 4)
    assert all(not parameters[name][~mask].any() for name, mask in masks.items())
    return found


def cells(options: argparse.Namespace, rows: Rows, images: Images) -> Iterator[Key]:
    """All trainings, all methods of the first seed first; `rows` is looked at once the rates are tried."""
    iterations = options.epochs * (len(images.train.labels) // BATCH) or POINTS[-1]
    for seed in range(1, options.seeds + 1):
        for method in options.only or METHODS:
            subject = Subject(options.network, method, options.transfer if method == "paper" else 0)
            key = Key(*subject, seed, PAPER_RATE, iterations, "test")
            yield key
            if not options.epochs:
                yield from choices(subject)
                best = best_rate(rows, subject)
                assert best is not None
                yield key._replace(rate=best)


def fill(rows: Rows, options: argparse.Namespace) -> None:
    """Do the trainings that are not there, and write each as it ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    images, folder = Images(options.data), options.results.with_suffix("")
    start, now = None, None
    for key in cells(options, rows, images):
        if key in rows:
            continue
        if now != (key.subject, key.seed):  # the next few trainings start from the same network
            start, now = pruned(key, images, folder, compiled=options.compile), (key.subject, key.seed)
        assert start is not None
        found = accuracies(*start, images.parts(key.on), key)
        rows[key] = key._asdict() | {"accuracy": found, "torch": torch.__version__}
        print(json.dumps(rows[key]), file=sys.stderr, flush=True)
        with options.results.open("a") as file:
            file.write(json.dumps(rows[key]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=NETWORKS, nargs="?", help="without --show")
    parser.add_argument("--data", type=Path, help=".npz file of MNIST; without --show")
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines to go on with")
    parser.add_argument("--only", choices=METHODS, action="append", help="a method alone; repeatable")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--transfer", type=int, default=20, help="epochs of the transfer of --preset paper")
    parser.add_argument("--compile", action="store_true", help="compile the steps of transfers, which are faster then")
    parser.add_argument("--epochs", type=int, default=0, help="train so long at 1e-3, in place of both curves")
    parser.add_argument("--show", action="store_true", help="print the tables of what is there alone")
    parser.add_argument("--picture", type=Path, help="with --show: draw the curves to this .svg file")
    options = parser.parse_args()
    if not options.show and not (options.network and options.data):
        parser.error("give a network and --data, or --show")
    rows = read(options.results)
    if not options.show:
        fill(rows, options)
    for network in dict.fromkeys(key.network for key in rows):
        for show in (show_curves, show_leads):
            show(rows, network)
            print()
    show_ends(rows)
    if options.picture:
        draw_picture(rows, options.picture)


if __name__ == "__main__":
    main()

"""Does a sparse network learn as fast as the dense one? Accuracy over training iterations, MNIST at 97% sparsity.

    python benchmarks/convergence.py lenet_300_100 --data mnist.npz --results FILE [--seeds 5] [--only ntt]
    python benchmarks/convergence.py lenet_300_100 --data mnist.npz --results FILE --only paper --seeds 2 --epochs 50
    python benchmarks/convergence.py --show --results benchmarks/results/convergence.jsonl [--picture FILE.svg]

`--data` is an .npz file with `x_train`, `y_train`, `x_test` and `y_test`. All methods start from the same random
weights and see all training images, without labels. `paper` takes 20 epochs of them, as its authors did, or as many as
`--transfer` says.

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
import statistics
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from labelled_lines import Line, Panel, draw
from networks import build
from pretrained_subjects import outputs_of
from torch import Tensor, nn
from torch.nn import functional

import ntt_cli as ntt

NETWORKS = {"lenet_300_100": "LeNet-300-100", "lenet5_caffe": "LeNet-5"}
SPARSITY = 0.97
BATCH = 64
POINTS = (25, 50, 100, 200, 400)
"""Iterations after which accuracy is measured."""

SHOWN = (100, 200, 400)
"""Those of the table."""

PAPER_RATE, RATES, CHOSEN_AFTER, HELD_OUT = 1e-3, (1e-3, 3e-3, 1e-2, 3e-2), 200, 5_000

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("dense", {}),
    "ntt": ("`ntt prune`", {}),
    "random": ("random, ERK", {"method": "random"}),
    "magnitude": ("magnitude, ERK", {"method": "magnitude"}),
    "synflow": ("SynFlow", {"method": "synflow"}),
    "paper": ("`ntt prune --preset paper`", {"preset": "paper"}),
    "layerwise": ("random, layerwise", {"method": "random", "allocation": "layerwise"}),
}
"""The row of each method in the tables, and its options of `ntt.prune`."""

AUTHORS = {
    ("lenet_300_100", "paper"): 96.5,
    ("lenet_300_100", "layerwise"): 93.5,
    ("lenet5_caffe", "paper"): 98.2,
    ("lenet5_caffe", "layerwise"): 96.7,
}
"""Accuracy after 50 epochs, in %, in the notebooks of the authors' code."""

PAPER_LINES = {"dense": "dense", "paper": "NTT, --preset paper", "layerwise": "random, layerwise"}
BEST_LINES = {"dense": "dense", "ntt": "NTT", "random": "random, ERK", "synflow": "SynFlow"}
COLOURS = {
    "dense": "#000000",
    "ntt": "#d55e00",
    "paper": "#d55e00",
    "random": "#0072b2",
    "layerwise": "#0072b2",
    "synflow": "#009e73",
}
"""Lines of the picture's panels, and their colours: Okabe & Ito, which colour-blind eyes tell apart."""


class Key(NamedTuple):
    """What a training is of. `transfer` are the epochs of `paper`'s transfer; 0 for other methods."""

    network: str
    method: str
    transfer: int
    seed: int
    rate: float
    iterations: int
    on: str


Row = dict[str, Any]
Rows = dict[Key, Row]


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
    dense = build(f"sample_models/{key.network}.py", seed=key.seed)
    if key.method == "dense":
        return dense, {}
    path = folder / f"{key.network}-{key.method}-{key.seed}-{key.transfer}.safetensors"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        length = {"epochs": key.transfer} if key.transfer else {}
        same = {"sparsity": SPARSITY, "trained": False, "seed": key.seed, "device": "cpu"}
        if compiled and key.method in {"ntt", "paper"}:
            same["compile"] = True
        ntt.prune(dense, images.train.inputs, output=path, **same, **METHODS[key.method][1], **length)
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


def best_rate(rows: Rows, key: Key) -> float | None:
    """The rate that the held-out images chose, or `None` where not all were tried."""
    tried = {rate: rows.get(choice) for rate, choice in zip(RATES, choices(key), strict=True)}
    found = {rate: row["accuracy"][str(CHOSEN_AFTER)] for rate, row in tried.items() if row}
    return max(found, key=found.__getitem__) if len(found) == len(RATES) else None


def choices(key: Key) -> list[Key]:
    """The trainings that choose a method's rate."""
    return [key._replace(seed=1, rate=rate, iterations=CHOSEN_AFTER, on="validation") for rate in RATES]


def cells(options: argparse.Namespace, rows: Rows, images: Images) -> Iterator[Key]:
    """All trainings, all methods of the first seed first; `rows` is looked at once the rates are tried."""
    iterations = options.epochs * (len(images.train.labels) // BATCH) or POINTS[-1]
    for seed in range(1, options.seeds + 1):
        for method in options.only or METHODS:
            transfer = options.transfer if method == "paper" else 0
            key = Key(options.network, method, transfer, seed, PAPER_RATE, iterations, "test")
            yield key
            if not options.epochs:
                yield from choices(key)
                best = best_rate(rows, key)
                assert best is not None
                yield key._replace(rate=best)


def fill(rows: Rows, options: argparse.Namespace) -> None:
    """Do the trainings that are not there, and write each as it ends."""
    images, start, now = Images(options.data), None, None
    for key in cells(options, rows, images):
        if key in rows:
            continue
        if now != (key.network, key.method, key.seed):  # the next few trainings start from the same network
            now, start = (
                key[:2] + (key.seed,),
                pruned(key, images, options.results.with_suffix(""), compiled=options.compile),
            )
        assert start is not None
        found = accuracies(*start, images.parts(key.on), key)
        rows[key] = key._asdict() | {"accuracy": found, "torch": torch.__version__}
        print(json.dumps(rows[key]), file=sys.stderr, flush=True)
        with options.results.open("a") as file:
            file.write(json.dumps(rows[key]) + "\n")


def read(path: Path) -> Rows:
    lines = path.read_text().splitlines() if path.exists() else []
    return {Key(*(row[part] for part in Key._fields)): row for row in map(json.loads, lines)}


def figures(rows: Rows, network: str, method: str, rate: float, after: int, *, iterations: int) -> list[float]:
    """Test accuracies of all seeds, in %."""
    wanted = (network, method, rate, iterations, "test")
    own = [row for key, row in rows.items() if (*key[:2], key.rate, key.iterations, key.on) == wanted]
    return [100 * row["accuracy"][str(after)] for row in own]


def in_words(numbers: list[float]) -> str:
    if not numbers:
        return ""
    return f"{statistics.fmean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")


def rate_of(rows: Rows, network: str, method: str) -> float | None:
    """A method's best rate."""
    first = next((key for key in rows if key[:2] == (network, method) and key.on == "validation"), None)
    return best_rate(rows, first) if first else None


def show_curves(rows: Rows, network: str) -> None:
    """Print a table, a line a method: some points of its curves at both rates."""
    columns = " | ".join(str(point) for point in SHOWN)
    print(f"| {NETWORKS[network]} | seeds | at 1e-3: {columns} | best rate | at it: {columns} |")
    print("|" + "---|" * (3 + 2 * len(SHOWN)))
    for method, (label, _) in METHODS.items():
        best = rate_of(rows, network, method)
        if best is not None:
            found = [
                [figures(rows, network, method, rate, point, iterations=POINTS[-1]) for point in SHOWN]
                for rate in (PAPER_RATE, best)
            ]
            first, second = (" | ".join(map(in_words, numbers)) for numbers in found)
            print(f"| {label} | {len(found[0][0])} | {first} | {best:g} | {second} |")


def show_ends(rows: Rows) -> None:
    """Print the table of the trainings that were asked for with `--epochs`."""
    print("| network | method | seeds | iterations | accuracy | the authors |\n|---|---|---|---|---|---|")
    long = [key for key in rows if key.on == "test" and key.iterations != POINTS[-1]]
    for network, method, iterations in dict.fromkeys((*key[:2], key.iterations) for key in long):
        found = figures(rows, network, method, PAPER_RATE, iterations, iterations=iterations)
        theirs = AUTHORS.get((network, method), "")
        cells = f"{len(found)} | {iterations:,} | {in_words(found)} | {theirs}"
        print(f"| {NETWORKS[network]} | {METHODS[method][0]} | {cells} |")


def panel(rows: Rows, network: str, methods: Mapping[str, str], rate: float | None) -> Panel:
    """The curves of some methods at one rate, or each at its best."""
    lines = []
    for method, name in methods.items():
        used = rate or rate_of(rows, network, method)
        assert used is not None
        found = [figures(rows, network, method, used, point, iterations=POINTS[-1]) for point in POINTS]
        spread = [statistics.stdev(numbers) if len(numbers) > 1 else 0.0 for numbers in found]
        lines.append(Line(name, COLOURS[method], POINTS, list(map(statistics.fmean, found)), spread))
    title = f"{NETWORKS[network]}, " + (f"rate {rate:g}" if rate else "each method's best rate")
    return Panel(title, lines, lowest=20 if rate else 60)


def draw_picture(rows: Rows, path: Path) -> None:
    """The paper's two methods at its rate beside the others at their best, a row a network."""
    panels = [
        panel(rows, network, methods, rate)
        for network in dict.fromkeys(key.network for key in rows)
        for methods, rate in ((PAPER_LINES, PAPER_RATE), (BEST_LINES, None))
    ]
    draw(panels, path, columns=2, x_label="training iterations", y_label="test accuracy, %", highest=100)


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
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = read(options.results)
    if not options.show:
        fill(rows, options)
    for network in dict.fromkeys(key.network for key in rows):
        show_curves(rows, network)
        print()
    show_ends(rows)
    if options.picture:
        draw_picture(rows, options.picture)


if __name__ == "__main__":
    main()

"""What `convergence.py` measured: its trainings, the rates they chose, their tables and their picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labelled_lines import Line, Panel, draw

NETWORKS = {"lenet_300_100": "LeNet-300-100", "lenet5_relu": "LeNet-5 with ReLU", "lenet5_caffe": "LeNet-5"}
POINTS = (25, 50, 100, 200, 400)
"""Iterations after which accuracy is measured."""

SHOWN = (100, 200, 400)
"""Those of the table."""

PAPER_RATE, RATES, CHOSEN_AFTER = 1e-3, (1e-3, 3e-3, 1e-2, 3e-2), 200

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
    ("lenet5_relu", "paper"): 98.2,
    ("lenet5_relu", "layerwise"): 96.7,
}
"""Accuracy after 50 epochs, in %, in the notebooks of the authors' code."""

LEADS = {"ntt": ("dense", "random", "magnitude", "synflow"), "paper": ("layerwise",)}
"""Whom each of NTT's two forms is to be compared with, and after how many iterations."""

LEADS_AFTER = (100, 200)

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


class Subject(NamedTuple):
    """A network, and what pruned it. `transfer` are the epochs of `paper`'s transfer; 0 for other methods."""

    network: str
    method: str
    transfer: int

    @property
    def label(self) -> str:
        return METHODS[self.method][0] + (f", {self.transfer} epochs" if self.transfer else "")


class Key(NamedTuple):
    """What a training is of."""

    network: str
    method: str
    transfer: int
    seed: int
    rate: float
    iterations: int
    on: str

    @property
    def subject(self) -> Subject:
        return Subject(self.network, self.method, self.transfer)


Row = dict[str, Any]
Rows = dict[Key, Row]


def read(path: Path) -> Rows:
    lines = path.read_text().splitlines() if path.exists() else []
    return {Key(*(row[part] for part in Key._fields)): row for row in map(json.loads, lines)}


def choices(subject: Subject) -> list[Key]:
    """The trainings that choose its best rate."""
    return [Key(*subject, 1, rate, CHOSEN_AFTER, "validation") for rate in RATES]


def best_rate(rows: Rows, subject: Subject) -> float | None:
    """The rate that the held-out images chose, or `None` where not all were tried."""
    tried = {key.rate: rows.get(key) for key in choices(subject)}
    found = {rate: row["accuracy"][str(CHOSEN_AFTER)] for rate, row in tried.items() if row}
    return max(found, key=found.__getitem__) if len(found) == len(RATES) else None


def by_seed(rows: Rows, subject: Subject, rate: float, after: int, *, iterations: int = POINTS[-1]) -> dict[int, float]:
    """Test accuracies in %."""
    wanted = (subject, rate, iterations, "test")
    own = {key: row for key, row in rows.items() if (key.subject, key.rate, key.iterations, key.on) == wanted}
    return {key.seed: 100 * row["accuracy"][str(after)] for key, row in own.items()}


def figures(rows: Rows, subject: Subject, rate: float, after: int, *, iterations: int = POINTS[-1]) -> list[float]:
    """Those of all seeds."""
    return list(by_seed(rows, subject, rate, after, iterations=iterations).values())


def subjects(rows: Rows, network: str) -> dict[Subject, float]:
    """Those of a network whose rates were tried, in the order of `METHODS`, with their best rates."""
    of_network = {key.subject for key in rows if key.network == network}
    ordered = sorted(of_network, key=lambda subject: (list(METHODS).index(subject.method), -subject.transfer))
    rates = {subject: best_rate(rows, subject) for subject in ordered}
    return {subject: rate for subject, rate in rates.items() if rate is not None}


def in_words(numbers: list[float]) -> str:
    if not numbers:
        return ""
    return f"{statistics.fmean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")


def show_curves(rows: Rows, network: str) -> None:
    """Print a table, a line a method: some points of its curves at both rates."""
    points = " | ".join(f"{point}" for point in SHOWN)
    print(f"| {NETWORKS[network]} | seeds | at 1e-3: {points} | best rate | at it: {points} |")
    print("|" + "---|" * (3 + 2 * len(SHOWN)))
    for subject, best in subjects(rows, network).items():
        found = [[figures(rows, subject, rate, point) for point in SHOWN] for rate in (PAPER_RATE, best)]
        first, second = (" | ".join(map(in_words, numbers)) for numbers in found)
        print(f"| {subject.label} | {len(found[1][0])} | {first} | {best:g} | {second} |")


def show_leads(rows: Rows, network: str) -> None:
    """Print by how many points NTT is ahead of others, seed by seed, with the standard error of that mean."""
    points = " | ".join(f"{point}" for point in LEADS_AFTER)
    print(f"| {NETWORKS[network]} | is ahead of | at 1e-3: {points} | at each one's best rate: {points} |")
    print("|" + "---|" * (2 + 2 * len(LEADS_AFTER)))
    found = subjects(rows, network)
    for leader in found:
        for other in found:
            if other.method in LEADS.get(leader.method, ()):
                pairs = [(PAPER_RATE, PAPER_RATE), (found[leader], found[other])]
                cells = [
                    lead(by_seed(rows, leader, own, point), by_seed(rows, other, its, point))
                    for own, its in pairs
                    for point in LEADS_AFTER
                ]
                print(f"| {leader.label} | {other.label} | {' | '.join(cells)} |")


def lead(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    """Over the seeds that both have."""
    apart = [first[seed] - second[seed] for seed in first if seed in second]
    said = f"{statistics.fmean(apart):+.1f}"
    return said + (f" ± {statistics.stdev(apart) / math.sqrt(len(apart)):.1f}" if len(apart) > 1 else "")


def show_ends(rows: Rows) -> None:
    """Print the table of the trainings that were asked for with `--epochs`."""
    long = [key for key in rows if key.on == "test" and key.iterations != POINTS[-1]]
    if long:
        print("| network | method | seeds | iterations | accuracy | the authors |\n|---|---|---|---|---|---|")
    for subject, iterations in dict.fromkeys((key.subject, key.iterations) for key in long):
        found = figures(rows, subject, PAPER_RATE, iterations, iterations=iterations)
        cells = f"{len(found)} | {iterations:,} | {in_words(found)} | {AUTHORS.get(subject[:2], '')}"
        print(f"| {NETWORKS[subject.network]} | {subject.label} | {cells} |")


def panel(rows: Rows, network: str, names: Mapping[str, str], rate: float | None) -> Panel:
    """The curves of some methods at one rate, or each at its best.

    Of several transfers it has the longest of those with most seeds.
    """
    lines = []
    for method, name in names.items():
        own = {subject: rate or best for subject, best in subjects(rows, network).items() if subject.method == method}
        found = [[figures(rows, subject, used, point) for point in POINTS] for subject, used in own.items()]
        if found:
            curve = max(found, key=lambda numbers: len(numbers[0]))
            spread = [statistics.stdev(numbers) if len(numbers) > 1 else 0.0 for numbers in curve]
            lines.append(Line(name, COLOURS[method], POINTS, list(map(statistics.fmean, curve)), spread))
    title = f"{NETWORKS[network]}, " + (f"rate {rate:g}" if rate else "best rates")
    return Panel(title, lines, lowest=0 if rate else 70)


def draw_picture(rows: Rows, path: Path) -> None:
    """The paper's two methods at its rate beside the others at their best, a row a network."""
    panels = [
        panel(rows, network, names, rate)
        for network in dict.fromkeys(key.network for key in rows)
        for names, rate in ((PAPER_LINES, PAPER_RATE), (BEST_LINES, None))
    ]
    draw(panels, path, columns=2, x_label="training iterations", y_label="test accuracy, %", highest=100)

"""The README's picture: accuracy against sparsity of the ResNet-20 that others trained, pruned without labels.

    python benchmarks/trained_picture.py docs/trained.svg

It draws what `trained_baselines.py` has measured, from the results that are kept in `benchmarks/results/others`: as
pruned, seed 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from labelled_lines import Line, Panel, draw

KEPT = Path(__file__).parent / "results/others"
LINES = {
    ("dense", ""): ("dense", "#999999"),
    ("ntt", "6000 steps"): ("ntt prune", "#0072b2"),
    ("ntt", "360 s"): ("ntt prune, 6 minutes", "#56b4e9"),
    ("obc + steps", "360 s"): ("OBC, distilled, 6 minutes", "#d55e00"),
    ("obc", ""): ("OBC", "#e69f00"),
    ("magnitude", ""): ("magnitude", "#555555"),
}
"""Method and what it was given: its name and its colour, of Okabe and Ito, which colour-blind readers tell apart."""


def accuracies() -> dict[tuple[str, str], dict[float, float]]:
    """In %, by line and sparsity in %."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for row in map(json.loads, (KEPT / "trained_baselines.jsonl").read_text().splitlines()):
        if row["seed"] < 2 and row["network"] == "resnet20":
            line = found.setdefault((row["line"], row["length"]), {})
            line[100 * row["sparsity"]] = 100 * row["accuracy"]
    return {line: dict(sorted(points.items())) for line, points in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    found = accuracies()
    found["dense", ""] = dict.fromkeys(found["obc", ""], found["dense", ""][0])
    lines = [
        Line(name, colour, list(found[line]), list(found[line].values()), [0] * len(found[line]))
        for line, (name, colour) in LINES.items()
    ]
    panel = Panel("A trained ResNet-20 on CIFAR-10, pruned without labels", lines, 0, "linear")
    draw([panel], options.picture, columns=1, x_label="sparsity, %", y_label="test accuracy, %", highest=90)


if __name__ == "__main__":
    main()

"""The README's picture: accuracy against sparsity of the ResNet-20 that others trained, pruned without labels.

    python benchmarks/trained_picture.py docs/trained.svg

It draws what `pretrained_networks.py` and `trained_baselines.py` have measured on the same 2,000 test images, from the
results that are kept in `benchmarks/results/others`: one seed, as pruned.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from labelled_lines import Line, Panel, draw

KEPT = Path(__file__).parent / "results/others"
LINES = {
    "dense": ("dense", "#999999"),
    "ntt": ("ntt prune", "#0072b2"),
    "obc": ("OBC", "#d55e00"),
    "magnitude": ("magnitude", "#555555"),
    "sparsegpt": ("SparseGPT", "#009e73"),
}
"""The name and the colour of each method, colours of Okabe and Ito, which colour-blind readers tell apart."""


def accuracies() -> dict[str, dict[float, float]]:
    """In %, by method and sparsity in %."""
    found: dict[str, dict[float, float]] = {}
    for row in map(json.loads, (KEPT / "pretrained_networks.jsonl").read_text().splitlines()):
        if row["network"] == "resnet20":
            found.setdefault(row["method"], {})[100 * row["sparsity"]] = 100 * row["figures"]["accuracy"]
    for row in map(json.loads, (KEPT / "trained_baselines.jsonl").read_text().splitlines()):
        if row["line"] in {"obc", "sparsegpt"}:
            found.setdefault(row["line"], {})[100 * row["sparsity"]] = 100 * row["accuracy"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    found = accuracies()
    found["dense"] = dict.fromkeys(found["ntt"], found["dense"][0])
    lines = [
        Line(name, colour, list(found[method]), list(found[method].values()), [0] * len(found[method]))
        for method, (name, colour) in LINES.items()
    ]
    panel = Panel("A trained ResNet-20 on CIFAR-10, pruned without labels", lines, 0, "linear")
    draw([panel], options.picture, columns=1, x_label="sparsity, %", y_label="test accuracy, %", highest=90)


if __name__ == "__main__":
    main()

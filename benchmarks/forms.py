"""`ntt bench` of networks that others trained, zeros alone, in every form that `ntt export` writes.

    python benchmarks/forms.py [--weights DIR] [--minilm] [--seconds S] [--threads N] [--results FILE]
    python benchmarks/forms.py --show --results benchmarks/results/others/forms.jsonl

Networks and options as in `sizes.py`, pruned by one-shot magnitude: at 95%, MiniLM at 50%. Times depend on the number
of zeros at most, not on which weights they are. Each form is timed in turns with the dense network in the same runtime.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from pretrained_subjects import SUBJECTS, Sources
from rich import box
from rich.console import Console
from rich.table import Table
from sizes import networks

import ntt_cli as ntt

SPARSITY = {"minilm": 0.5}
SHAPES = {"lenet-300-100": (1, 28, 28), "resnet20": (3, 32, 32), "resnet56": (3, 32, 32)}
FORMS = {"safetensors": "zeros, PyTorch", "packed.safetensors": "packed, PyTorch", "pt2": "pt2", "onnx": "onnx"}
"""Their names in the table, by how their files' names end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help="a JSON line a row of the table")
    parser.add_argument("--show", action="store_true", help="print the table of what is in --results alone")
    options = parser.parse_args()
    if options.show:
        Console(width=200).print(shown([json.loads(line) for line in options.results.read_text().splitlines()]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, network, more in networks(options.weights, minilm=options.minilm):
            inputs = torch.randn(64, *SHAPES[name]) if name in SHAPES else minilm_inputs()
            report = measured(name, network, inputs, more, Path(folder), options.seconds, options.threads)
            rows += rows_of(name, report)
            if options.results is not None:
                with options.results.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows_of(name, report))
    Console(width=200).print(shown(rows))


def rows_of(name: str, report: ntt.BenchReport) -> list[dict[str, Any]]:
    """A row a form and number of samples: its bytes, and both median times of a pass in seconds."""
    sizes = {each.file: each.bytes for each in report.files}
    return [
        {
            "network": name,
            "form": Path(each.file).name.partition(".")[2],
            "bytes": sizes[each.file],
            "dense_bytes": report.dense_bytes,
            "samples": each.samples,
            "dense_seconds": each.dense_median,
            "seconds": each.median,
            "verdict": each.verdict,
            "ratio": [each.low, each.ratio, each.high],
        }
        for each in report.comparisons
    ]


def shown(rows: list[dict[str, Any]]) -> Table:
    """The rows as a Markdown table."""
    table = Table("network", "form", "bytes", "samples", "dense, ms", "this, ms", "speed over dense", box=box.MARKDOWN)
    for row in rows:
        low, middle, high = (f"{ratio:.2f}" for ratio in row["ratio"])
        size = f"{row['bytes']:,} (1/{row['dense_bytes'] / row['bytes']:.1f})"
        times = (f"{row[kind] * 1e3:.2f}" for kind in ("dense_seconds", "seconds"))
        said = f"{row['verdict']}: {middle} ({low} to {high})"
        table.add_row(row["network"], FORMS[row["form"]], size, str(row["samples"]), *times, said)
    return table


def minilm_inputs() -> torch.Tensor:
    """Tokens of sentences."""
    return SUBJECTS["minilm"].prepare(Sources(data=None, weights=None)).inputs[:64]


def measured(
    name: str,
    network: torch.nn.Module,
    inputs: torch.Tensor,
    options: dict[str, Any],
    folder: Path,
    seconds: float,
    threads: int,
) -> ntt.BenchReport:
    """One network, pruned, in all forms."""
    sparse = folder / f"{name}.safetensors"
    ntt.prune(network, sparsity=SPARSITY.get(name, 0.95), method="magnitude", output=sparse, **options)
    written = [ntt.export(sparse, to="packed").output]
    written += [ntt.export(sparse, to=form, model=network, data=inputs).output for form in ("pt2", "onnx")]
    return ntt.bench(sparse, written, model=network, data=inputs, seconds=seconds, threads=threads)


if __name__ == "__main__":
    main()

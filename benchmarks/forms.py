"""`ntt bench` of networks that others trained, zeros alone, in every form that `ntt export` writes.

    python benchmarks/forms.py [--weights DIR] [--minilm] [--seconds S] [--threads N] [--results FILE]

Networks and options as in `sizes.py`, pruned by one-shot magnitude: at 95%, MiniLM at 50%. Times depend on the number
of zeros at most, not on which weights they are. Each form is timed in turns with the dense network in the same runtime.
"""

from __future__ import annotations

import argparse
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
FORMS = ("packed", "pt2", "onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help="a JSON line a network")
    options = parser.parse_args()
    table = Table("network", "form", "bytes", "samples", "dense, ms", "this, ms", "speed over dense", box=box.MARKDOWN)
    with tempfile.TemporaryDirectory() as folder:
        for name, network, more in networks(options.weights, minilm=options.minilm):
            inputs = torch.randn(64, *SHAPES[name]) if name in SHAPES else minilm_inputs()
            report = measured(name, network, inputs, more, Path(folder), options.seconds, options.threads)
            if options.results is not None:
                with options.results.open("a") as file:
                    file.write(report.model_dump_json() + "\n")
            sizes = {each.file: each.bytes for each in report.files}
            for each in report.comparisons:
                form = Path(each.file).name.partition(".")[2]
                times = (f"{seconds * 1e3:.2f}" for seconds in (each.dense_median, each.median))
                said = f"{each.verdict}: {each.ratio:.2f} ({each.low:.2f} to {each.high:.2f})"
                table.add_row(name, form, f"{sizes[each.file]:,}", str(each.samples), *times, said)
    Console(width=200).print(table)


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
    written += [ntt.export(sparse, to=form, model=network, data=inputs).output for form in FORMS[1:]]
    return ntt.bench(sparse, written, model=network, data=inputs, seconds=seconds, threads=threads)


if __name__ == "__main__":
    main()

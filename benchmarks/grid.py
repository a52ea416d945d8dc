"""All methods on one network: a comparison by `ntt compare`, as a table for the README.

    python benchmarks/grid.py lenet_300_100 --out results/lenet_300_100 [--jobs 2] [--methods ntt,synflow]
    python benchmarks/grid.py lenet_300_100 --pretrained --out results/pretrained [--jobs 2]

`deep_mlp` has ten layers of 100 units and nothing that normalises; `deep_conv` eight convolutions, likewise.

Fashion-MNIST (14×14 pixels for ResNet-20 and the deep convolutions, 16×16 for the transformer): 10,000 training images,
2,000 more for validation, the whole test set; 10 epochs of AdamW; each method's rate at each sparsity is chosen on the
first seed's validation images. With `--pretrained` each seed's dense network is trained like that first and then
pruned, and rates are chosen for each seed; the table has the networks as pruned, then as fine-tuned. What is done
already is not done again. `--methods` does some of them, and the table always has all that there are. A star marks
label-free methods within one standard error of the best label-free one.

`--keep FILE` writes every trial's result as a line of JSON. Those of the README's tables lie beside this script:

    python benchmarks/grid.py lenet_300_100 --show --out benchmarks/results/lenet_300_100.jsonl
    python benchmarks/grid.py lenet_300_100 --pretrained --show --out benchmarks/results/lenet_300_100_pretrained.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ntt_cli as ntt

EVERY = (
    "ntt,synflow,synflow:allocation=erk,ntk-sap,px,phew,cts-kl,eoi,logit-snip,random,random:allocation=layerwise,"
    "random-rescaled,magnitude,wanda,ntt-shuffled,ntt-fresh,snip,iterative-snip,grasp,imp:steps=1570,trained-magnitude,dense"
)
EXCLUSIVE = "ntt,synflow,ntk-sap,logit-snip,random,random-rescaled,magnitude,snip,iterative-snip,grasp,dense"
FEW = "ntt,synflow,snip,magnitude,random,dense"
GRIDS: dict[str, tuple[str, tuple[float, ...], tuple[int, ...], tuple[float, ...], dict[str, Any]]] = {
    "lenet_300_100": (EVERY, (0.9, 0.95, 0.97, 0.99), (1, 2, 3, 4, 5), (1e-3, 3e-3, 1e-2, 3e-2), {}),
    "lenet5_caffe": (EVERY, (0.97, 0.9, 0.99), (1, 2, 3, 4, 5, 6), (3e-3, 1e-2, 3e-2), {}),
    "resnet20": (
        FEW,
        (0.95,),
        (1, 2, 3, 4, 5),
        (3e-3, 1e-2, 3e-2),
        {"model_arg": ("channels=1",), "data": "fashion-mnist", "image_size": "14"},
    ),
    "vit_tiny": (
        EXCLUSIVE,
        (0.95, 0.98),
        (1, 2),
        (1e-3, 3e-3, 1e-2),
        {"model_arg": ("size=16",), "data": "fashion-mnist", "image_size": "16"},
    ),
    "deep_mlp": (
        EXCLUSIVE,
        (0.99, 0.98, 0.95),
        (1, 2, 3),
        (1e-3, 3e-3, 1e-2, 3e-2),
        {
            "model": "sample_models/digits_mlp.py",
            "model_arg": ("inputs=784", f"hidden={[100] * 9}"),
            "data": "fashion-mnist",
        },
    ),
    "deep_conv": (
        EXCLUSIVE,
        (0.98, 0.95),
        (1, 2, 3),
        (1e-3, 3e-3, 1e-2, 3e-2),
        {"model": "benchmarks/deep_conv.py", "data": "fashion-mnist", "image_size": "14"},
    ),
}
"""Methods, sparsities, seeds, rates, and how the model and its data differ from what its file says."""

PRETRAINED = (
    "ntt,ntt:kernel-weight=1,ntt:data=digits:image-size={side},magnitude,wanda,random,dense",
    {
        "lenet_300_100": ((0.95, 0.98, 0.99), (1, 2, 3, 4, 5)),
        "lenet5_caffe": ((0.95, 0.98, 0.99), (1, 2, 3)),
        "resnet20": ((0.95,), (1, 2)),
    },
    (1e-3, 3e-3),
)
"""Methods, sparsities and seeds by network, and rates, of networks trained first; `side` is that of their images."""

WARMUP = 0.0
"""For trained networks and studies, whose figures predate `ntt finetune`'s warm-up (docs/notebook/21-warm-up.md)."""

REFERENCES = ("dense", "trained-magnitude")
"""What is measured beside the methods."""

Result = dict[str, Any]
"""What `ntt compare` writes of a trial: the fields of one of the `results` that `ntt_cli.compare` returns."""

Groups = dict[tuple[str, float | None], list[Result]]


def options_of(
    name: str,
    *,
    out: str,
    methods: str | None,
    jobs: int,
    data: str | None = None,
    seeds: int | None = None,
    sparsities: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The comparison of one network, as `ntt_cli.compare` takes it."""
    every, all_sparsities, all_seeds, rates, changes = GRIDS[name]
    return {
        "model": f"sample_models/{name}.py",
        **changes,
        **({"data": data} if data else {}),
        "limit": 12_000,
        "validation": 0.16667,
        "methods": [methods or every],
        "sparsities": sparsities or all_sparsities,
        "seeds": all_seeds[:seeds],
        "learning_rates": rates,
        "device": "cpu",
        "jobs": jobs,
        "output": out,
    }


def compare_pretrained(options: dict[str, Any], methods: str | None) -> None:
    """A comparison for each seed, of networks pruned from the one that the seed trained."""
    every, networks, rates = PRETRAINED
    sparsities, seeds = networks[Path(options["model"]).stem]
    for seed in seeds:
        folder = Path(options["output"]) / f"seed{seed}"
        dense = folder.with_suffix(".safetensors")
        if not dense.exists():
            dense.parent.mkdir(parents=True, exist_ok=True)
            shared = ("model", "model_arg", "data", "image_size", "limit", "validation")
            same = {name: options[name] for name in shared if name in options}
            ntt.finetune(**same, warmup=WARMUP, seed=seed, device="cpu", output=dense)
        changed = {
            "methods": [methods or every.format(side=options.get("image_size", 28))],
            "sparsities": sparsities,
            "seeds": (seed,),
            "learning_rates": rates,
            "warmup": WARMUP,
            "weights": str(dense),
            "output": str(folder),
        }
        ntt.compare(**(options | changed), progress=_tell)


def trials_of(folder: Path) -> dict[Path, Result]:
    """The results in a comparison's folder, by the folders of their trials."""
    return {path.parent: json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/result.json"))}


def results_of(out: Path, *, pretrained: bool) -> list[Result]:
    """All results below a folder, or those that a file keeps."""
    if out.is_file():
        return [json.loads(line) for line in out.read_text().splitlines()]
    folders = sorted(path for path in out.glob("seed*") if path.is_dir()) if pretrained else [out]
    return [result for folder in folders for result in trials_of(folder).values()]


def keep(results: Iterable[Result], path: Path) -> None:
    """Write results to a file that `results_of` reads."""
    path.write_text("".join(json.dumps(result, separators=(",", ":")) + "\n" for result in results))


def show(results: Iterable[Result], figures: Mapping[str, Callable[[Result], float]]) -> None:
    """Print figures, by what a column's title says of them, as Markdown; best mean of the first one first."""
    groups: Groups = {}
    for result in results:
        groups.setdefault((result["method"], result["sparsity"]), []).append(result)
    labels = {method: group[0]["labels_before_training"] for (method, _), group in groups.items()}
    levels = sorted({level for _, level in groups if level is not None})
    columns = [(level, title, figure) for title, figure in figures.items() for level in levels]

    def rank(method: str) -> tuple[bool, float]:
        figure = next(iter(figures.values()))
        means = [statistics.fmean(map(figure, group)) for (name, _), group in groups.items() if name == method]
        return method in REFERENCES, -statistics.fmean(means)

    ranked = sorted(labels, key=rank)
    rows = {method: [method, "yes" if labels[method] else "no"] for method in ranked}
    for level, _, figure in columns:
        values = {method: _values(groups, method, level, figure) for method in ranked}
        candidates = {method for method in ranked if values[method] and not labels[method] and method not in REFERENCES}
        best = max((values[method] for method in candidates), key=statistics.fmean)
        near = statistics.fmean(best) - (statistics.stdev(best) / math.sqrt(len(best)) if len(best) > 1 else 0.0)
        for method, own in values.items():
            rows[method].append(_cell(own) + " *" * (method in candidates and statistics.fmean(own) >= near))
    print(
        "| method | labels before training | " + " | ".join(f"{level:.0%}{title}" for level, title, _ in columns) + " |"
    )
    print("|---|---|" + "---|" * len(columns))
    for method, *cells in rows.values():
        print(f"| `{method}` | " + " | ".join(cells) + " |")


def _values(groups: Groups, method: str, level: float, figure: Callable[[Result], float]) -> list[float]:
    """In %, of each seed."""
    return [100 * figure(result) for result in groups.get((method, None if method == "dense" else level), [])]


def _cell(numbers: list[float]) -> str:
    if not numbers:
        return ""
    return f"{statistics.fmean(numbers):.2f}" + (f" ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else "")


def _tell(event: Any) -> None:
    if type(event).__name__ == "TrialsChanged":
        print(f"{event.done}/{event.total} done, {event.failed} failed; running {', '.join(event.running)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=GRIDS)
    parser.add_argument("--out", required=True, help="the folder of the comparison; with --show, or what --keep wrote")
    parser.add_argument("--methods")
    parser.add_argument("--data", help="other data than Fashion-MNIST, of the same shape, such as mnist.npz")
    parser.add_argument("--sparsities", type=float, nargs="+", help="these alone")
    parser.add_argument("--seeds", type=int, help="the first so many seeds alone")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--pretrained", action="store_true", help="prune networks that were trained first")
    parser.add_argument("--show", action="store_true", help="print the table alone")
    parser.add_argument("--keep", metavar="FILE", help="write all results to it, a line of JSON each")
    parser.add_argument("--on", choices=("test", "validation"), default="test", help="which accuracy the table has")
    options = parser.parse_args()
    if options.pretrained and options.network not in PRETRAINED[1]:
        parser.error(f"--pretrained takes {', '.join(PRETRAINED[1])}")
    comparison = options_of(
        options.network,
        out=options.out,
        methods=options.methods,
        jobs=options.jobs,
        data=options.data,
        seeds=options.seeds,
        sparsities=options.sparsities,
    )
    if not options.show:
        if options.pretrained:
            compare_pretrained(comparison, options.methods)
        else:
            ntt.compare(**comparison, progress=_tell)
    results = results_of(Path(options.out), pretrained=options.pretrained)
    if options.keep:
        keep(results, Path(options.keep))
    if options.pretrained:
        show(
            results,
            {
                ", as pruned": lambda result: result["accuracy_as_pruned"],
                ", fine-tuned": lambda result: result["accuracy"],
            },
        )
    elif options.on == "validation":
        show(results, {"": lambda result: result["validation_accuracy"] or 0.0})
    else:
        show(results, {"": lambda result: result["accuracy"]})


if __name__ == "__main__":
    main()

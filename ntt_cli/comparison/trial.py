"""One trial of a comparison: a method at a sparsity and a seed, pruned, fine-tuned and evaluated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ntt_cli.comparison.inputs import given_of, require_unchanged, test_data_of
from ntt_cli.comparison.results import TrialResult, trial_name
from ntt_cli.config import (
    CompareConfig,
    DataOptions,
    EvaluateConfig,
    FinetuneConfig,
    ModelOptions,
    PruneConfig,
    WeightsOptions,
    method_class,
    method_names,
    method_of,
)
from ntt_cli.errors import DivergedError, OutputError, ResumeError, UsageError
from ntt_cli.evaluation import evaluate
from ntt_cli.files.atomic import HOUR, remove_orphans
from ntt_cli.files.results import RESULT, TRIALS, read_result, write_result
from ntt_cli.pruning import prune
from ntt_cli.results import EvaluateReport, FinetuneReport, PruneReport
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.signals import Stop
from ntt_cli.training import finetune

SHARED = (*ModelOptions.model_fields, *DataOptions.model_fields, "device")
TRAINING = ("epochs", "optimiser", "task", "validation", "warmup")

DENSE = "dense.safetensors"
"""The trained network that `trained-magnitude` prunes."""


@dataclass(frozen=True)
class Trial:
    """An entry of `--methods` at a sparsity, which the dense network has not, and a seed of everything random."""

    method: str
    sparsity: float | None
    seed: int

    @property
    def name(self) -> str:
        return trial_name(self.method, self.sparsity, self.seed)

    @property
    def sees_labels(self) -> bool:
        """Whether the method sees labels before fine-tuning."""
        name, _ = method_of(self.method)
        return name == "trained-magnitude" or (name in method_names() and method_class(name).needs == "labels")

    @property
    def transfers(self) -> bool:
        """Whether the method takes steps, of its own or because it was asked to."""
        name, own = method_of(self.method)
        if name not in method_names() or not method_class(name).moves_weights:
            return False
        return method_class(name).default_steps is None or bool({"steps", "epochs"} & own.keys())


def trials_of(config: CompareConfig) -> list[Trial]:
    """All trials: those of the first seed, then those of the next."""
    return [
        Trial(method, sparsity, seed)
        for seed in config.seeds
        for sparsity in (None, *config.sparsities)
        for method in config.methods
        if (method == "dense") == (sparsity is None)
    ]


def learning_rate_source(config: CompareConfig, trial: Trial) -> Trial | None:
    """The trial, of the first seed, that chooses this one's learning rate; `None` if it chooses its own."""
    if trial.seed == config.seeds[0] or len(config.learning_rates) < 2:
        return None
    return Trial(trial.method, trial.sparsity, config.seeds[0])


def folder_of(config: CompareConfig, trial: Trial) -> Path:
    return Path(config.output) / TRIALS / trial.name


def result_of(config: CompareConfig, trial: Trial) -> TrialResult | None:
    return read_result(folder_of(config, trial), TrialResult)


def run_trial(
    config: CompareConfig, trial: Trial, stop: Stop | None = None, sources: Sources = AS_NAMED
) -> TrialResult:
    """Prune, fine-tune and evaluate, and write the result last. What a killed process did is not done again.

    Raises:
        UsageError: if the trial that chooses the learning rate has no result.
        DivergedError: if the loss on the test data is not finite.
        OutputError: if its folder is a link, or model, weights or data changed since the comparison was begun.
    """
    begun, stop = time.monotonic(), stop or Stop()
    folder = folder_of(config, trial)
    for place in (folder.parent, folder):
        if place.is_symlink():
            raise OutputError(place, "is a link, and what it leads to would be overwritten", hint="remove the link")
        place.mkdir(parents=True, exist_ok=True)
    remove_orphans(folder / RESULT, older_than=HOUR)
    rates: tuple[float | None, ...] = config.learning_rates or (None,)
    if source := learning_rate_source(config, trial):
        chosen = result_of(config, source)
        if chosen is None:
            what = f"takes its learning rate from {source.name}, which has no result"
            raise UsageError(f"trial {trial.name}", what, hint="run that trial first")
        rates = (chosen.learning_rate,)
    require_unchanged(config, trial.method, sources)  # now, and not only after the work
    pruned = _pruned(config, trial, folder, stop, sources)
    sparse = pruned.output
    tuned = [_finetune(config, trial, Path(sparse), rate, stop, sources) for rate in rates]
    best = max(tuned, key=lambda report: (1 if report.higher_is_better else -1) * (report.value or 0.0))
    # Random weights know no classes yet: their outputs stand for the classes that fine-tuning teaches them.
    as_pruned = _evaluate(config, trial, sparse, best.class_names, sources)
    tested = _evaluate(config, trial, best.output, best.class_names, sources)
    metric, loss = best.metric, tested.metrics["loss"]
    if not math.isfinite(loss):
        raise DivergedError(best.output, "its loss on the test data is not finite", hint="give lower --learning-rates")
    result = TrialResult(
        method=trial.method,
        sparsity=trial.sparsity,
        seed=trial.seed,
        labels_before_training=trial.sees_labels,
        learning_rate=best.learning_rate,
        accuracy=tested.metrics.get("accuracy"),
        accuracy_as_pruned=as_pruned.metrics.get("accuracy"),
        validation_accuracy=best.accuracy,
        validation_by_rate={repr(report.learning_rate): report.value for report in tuned},
        loss=loss,
        task=best.task,
        metric=metric,
        higher_is_better=best.higher_is_better,
        metrics=tested.metrics,
        metrics_as_pruned=as_pruned.metrics,
        kept=tested.kept,
        prunable=tested.prunable,
        flops_sparse=tested.flops_sparse,
        trained=method_of(trial.method)[0] != "trained-magnitude" and pruned.has_trained_teacher,
        seconds=time.monotonic() - begun,
    )
    require_unchanged(config, trial.method, sources)
    write_result(folder, result)
    return result


def pruning_of(config: CompareConfig, trial: Trial) -> PruneConfig:
    method, own = method_of(trial.method)
    folder, weights = folder_of(config, trial), config.weights
    if method == "trained-magnitude":
        method, weights = "magnitude", str(folder / DENSE)
    elif method == "dense":
        method = "magnitude"  # at sparsity 0 it keeps every weight and writes a checkpoint
    read_as = given_of(config, WeightsOptions.model_fields) if weights == config.weights else {}
    common = read_as | {
        "seed": trial.seed,
        "sparsity": trial.sparsity or 0.0,
        "weights": weights,
        "exclude": config.exclude,
        "include": config.include,
        "pattern": None if method_of(trial.method)[0] == "dense" else config.pattern,
        "output": str(folder / "sparse.safetensors"),
    }
    if trial.transfers and "epochs" not in own:
        common["steps"] = config.steps
    return PruneConfig(**(given_of(config, SHARED) | common | own), method=method)


def _pruned(config: CompareConfig, trial: Trial, folder: Path, stop: Stop, sources: Sources) -> PruneReport:
    name, _ = method_of(trial.method)
    if name == "trained-magnitude":
        dense = _training_of(config, trial, output=str(folder / DENSE))
        _resumed_or_anew(finetune.finetune, dense, stop, sources)
    pruning = pruning_of(config, trial).model_copy(update=_resuming(config))
    return _resumed_or_anew(prune.prune, pruning, stop, sources).report


def _finetune(
    config: CompareConfig, trial: Trial, checkpoint: Path, rate: float | None, stop: Stop, sources: Sources
) -> FinetuneReport:
    output = checkpoint.with_name("tuned.safetensors" if rate is None else f"tuned-{rate!r}.safetensors")
    options = _training_of(config, trial, checkpoint=str(checkpoint), learning_rate=rate, output=str(output))
    return _resumed_or_anew(finetune.finetune, options, stop, sources).report


C = TypeVar("C", PruneConfig, FinetuneConfig)
R = TypeVar("R")


def _resumed_or_anew(run: Callable[[C, EventSink, Stop, Sources], R], options: C, stop: Stop, sources: Sources) -> R:
    """Go on from what a killed process left; if that is from another machine, start from the beginning."""
    try:
        return run(options, lambda _: None, stop, sources)  # a comparison reports which trials run, and no more
    except ResumeError:
        return run(options.model_copy(update={"resume": False}), lambda _: None, stop, sources)


def _evaluate(
    config: CompareConfig, trial: Trial, checkpoint: str, class_names: tuple[str, ...] | None, sources: Sources
) -> EvaluateReport:
    network = given_of(config, (*ModelOptions.model_fields, "task", "device"))
    options = network | test_data_of(config) | {"seed": trial.seed}
    measured = EvaluateConfig(**options, checkpoint=checkpoint)
    return evaluate.run(measured, lambda _: None, class_names, sources.testing())


def _training_of(config: CompareConfig, trial: Trial, **options: Any) -> FinetuneConfig:
    given = given_of(config, (*SHARED, *TRAINING)) | _resuming(config)
    return FinetuneConfig(**given | {"seed": trial.seed} | options)


def _resuming(config: CompareConfig) -> dict[str, Any]:
    return {"force": True, "resume": True, "checkpoint_every": config.checkpoint_every}

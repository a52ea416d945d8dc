"""`ntt compare`: methods, sparsities and seeds under one budget; each trial is run once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ntt_cli.comparison.inputs import OWN_DATA, given_of, inputs_of, test_data_of
from ntt_cli.comparison.page import comparison_page
from ntt_cli.comparison.queue import run_trials_in_process
from ntt_cli.comparison.results import ComparePlan, CompareReport, PlannedTrial, TrialResult, rows_of
from ntt_cli.comparison.trial import SHARED, TRAINING, Trial, learning_rate_source, pruning_of, result_of, trials_of
from ntt_cli.comparison.workers import run_trials
from ntt_cli.config import CompareConfig, DataOptions, FinetuneConfig, WeightsOptions, method_of, recorded
from ntt_cli.data.labels import by_name
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.atomic import can_sync
from ntt_cli.files.results import open_folder, read_results, write_tables
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.prepare import pick_prunable, to_functional
from ntt_cli.pages.write import write_page
from ntt_cli.pruning import prune
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.runtime.process_group import this_process_group
from ntt_cli.training import job as finetune_job

NOT_SETTINGS = {"methods", "sparsities", "seeds", "jobs", "trial"}
"""Options that may differ from call to call in one folder: a comparison may grow by methods, sparsities and seeds."""

START_SECONDS = 5.0
"""For a trial to open its model and data, and for its process to import torch."""


def prepare(config: CompareConfig, on_event: EventSink, *, write: bool, sources: Sources = AS_NAMED) -> list[Trial]:
    """Check everything that the trials share, and return the trials; with `write`, make the comparison's folder.

    `on_event` is told what there is to say about model and data, since the trials themselves say nothing.
    """
    _require_one_process()
    loaded = sources.load_model(config, seed=config.seeds[0])
    job = finetune_job.prepare(_finetune_config(config), on_event, sources)
    _check_seeds(config, loaded, sources, on_event)
    class_names, has_classes = job.training.samples.class_names, job.task.has_classes
    _check_test_data(config, loaded, sources.testing(), class_names, on_event, has_classes=has_classes)
    cpu = torch.device("cpu")
    network = to_functional(loaded.module, cpu, lambda _: None, select_outputs=job.loaded.select_outputs)
    inputs = dataclasses.replace(job.training, device=cpu)
    patterns = {"exclude": config.exclude, "include": config.include}
    pick_prunable(network, inputs, lambda _: None, **patterns, where=config.model)
    settings = {name: value for name, value in recorded(config).items() if name not in NOT_SETTINGS}
    settings |= {"model": loaded.source, "first seed": config.seeds[0]}
    settings |= {name: found.sha256 for name, found in inputs_of(config, loaded, config.methods, sources).items()}
    folder = Path(config.output)
    unrecorded = open_folder(folder, settings, write=write)
    if any(name.startswith(OWN_DATA) for name in unrecorded):  # data of new methods is no reason to warn
        known = {f"{OWN_DATA}{result.method}" for result in read_results(folder, TrialResult).values()}
        unrecorded = [name for name in unrecorded if not name.startswith(OWN_DATA) or name in known]
    if unrecorded:
        old = f"{folder} was begun by an older ntt, which did not record: {', '.join(unrecorded)}"
        on_event(Warned(f"{old}; make sure that nothing of this has changed"))
    if write and not can_sync(folder):
        what = "the file system does not write to disk when asked: a power cut may damage what is in"
        on_event(Warned(f"{what} {folder}"))
    return trials_of(config)


def run(
    config: CompareConfig, on_event: EventSink, *, in_process: bool = False, sources: Sources = AS_NAMED
) -> CompareReport:
    """Run the trials that have no result yet, and gather the results of all.

    A trial that fails is reported and does not end the others. With `in_process`, trials run in this process, one after
    the other, as objects in the place of names demand.

    Raises:
        UsageError: if there is no trial of the number.
    """
    trials = prepare(config, on_event, write=True, sources=sources)
    if config.trial is not None and config.trial > len(trials):
        raise UsageError(f"--trial {config.trial}", f"there are {len(trials)} trials", hint="--plan lists them")
    chosen = trials if config.trial is None else [trials[config.trial - 1]]
    waiting = [trial for trial in chosen if result_of(config, trial) is None]
    failed = []
    if waiting and in_process:
        failed = run_trials_in_process(config, waiting, on_event, sources)
    elif waiting:
        failed = run_trials(config, waiting, on_event)
    results = [result for trial in chosen if (result := result_of(config, trial)) is not None]
    page, folder = None, Path(config.output)
    if config.trial is None:
        write_tables(folder, results)
        if results:
            page = write_page(comparison_page(folder), folder / "report.html", force=True).output
    return CompareReport(output=config.output, page=page, rows=rows_of(results), results=results, failed=failed)


def plan(config: CompareConfig, on_event: EventSink, sources: Sources = AS_NAMED) -> ComparePlan:
    """The trials, and how long those not done will take, from a few measured steps; nothing is trained."""
    trials = prepare(config, on_event, write=False, sources=sources)
    undone = [trial for trial in trials if result_of(config, trial) is None]
    training = _finetune_config(config)
    job = finetune_job.prepare(training, lambda _: None, sources)  # `prepare` has said everything
    one_training = finetune_job.seconds_per_step(job) * finetune_job.steps_of(job)
    # One measurement for each method that moves weights: its cost hardly depends on sparsity and seed.
    first = {trial.method: trial for trial in reversed(undone) if trial.transfers}
    transfers = {
        method: prune.plan(pruning_of(config, trial), lambda _: None, sources).estimated_seconds or 0.0
        for method, trial in first.items()
    }
    rates = max(1, len(config.learning_rates))
    seconds = sum(
        one_training * (rates if learning_rate_source(config, trial) is None else 1)
        + one_training * (method_of(trial.method)[0] == "trained-magnitude")
        + transfers.get(trial.method, 0.0)
        + START_SECONDS
        for trial in undone
    )
    numbered = [
        PlannedTrial(number=number, trial=trial.name, done=trial not in undone)
        for number, trial in enumerate(trials, start=1)
    ]
    return ComparePlan(output=config.output, trials=numbered, estimated_seconds=seconds)


def _require_one_process() -> None:
    if this_process_group().size > 1:
        what = "would run every trial in each of its processes: a comparison starts processes of its own"
        hint = "start it without torchrun; --jobs N runs N trials side by side"
        raise UsageError("compare under torchrun", what, hint=hint)


def _check_seeds(config: CompareConfig, loaded: LoadedModel, sources: Sources, on_event: EventSink) -> None:
    """Say so where every seed starts with the same network."""
    if len(config.seeds) < 2:
        return
    if config.weights is not None or loaded.trained or sources.model is not None:
        on_event(Noted("all seeds begin with the same weights: deviations are over pruning and training alone"))
    elif not sources.heeds_seed(config, loaded, seed=config.seeds[0]):
        what = f"{config.model} builds the same network for every seed, so that deviations over seeds are over pruning"
        hint = "leave torch.manual_seed out of the factory, or say TRAINED = True if it loads weights"
        on_event(Warned(f"{what} and training alone: {hint}"))


def _check_test_data(
    config: CompareConfig,
    loaded: LoadedModel,
    sources: Sources,
    class_names: tuple[str, ...] | None,
    on_event: EventSink,
    *,
    has_classes: bool,
) -> None:
    samples = sources.load_samples(DataOptions(**test_data_of(config)), loaded, split="test")
    if samples.labels is None:
        raise DataError(samples.spec, "has no labels to test with", hint="name labelled data with --test-data")
    if config.test_data is None and sources.data is None and samples.split is None:
        hint = "name other labelled data with --test-data, or name arrays x_train, y_train, x_test, y_test"
        raise DataError(samples.spec, "is not divided into training and test samples", hint=hint)
    if has_classes:
        by_name(samples, class_names, on_event, purpose="accuracy is over")


def _finetune_config(config: CompareConfig) -> FinetuneConfig:
    names = (*SHARED, *TRAINING, *WeightsOptions.model_fields)
    return FinetuneConfig(**given_of(config, names), seed=config.seeds[0], checkpoint=config.weights)

"""`ntt compare`: methods, sparsities and seeds under one budget; each cell is done once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ntt_cli.comparison.inputs import OWN_DATA, given_of, inputs_of, test_data_of
from ntt_cli.comparison.page import comparison_page
from ntt_cli.comparison.results import CellFailure, CellResult, ComparePlan, CompareReport, PlannedCell
from ntt_cli.comparison.rows import rows_of
from ntt_cli.comparison.trial import (
    SHARED,
    TRAINING,
    Cell,
    cells_of,
    pilot_of,
    pruning_of,
    result_of,
)
from ntt_cli.comparison.workers import run_cells
from ntt_cli.config import CompareConfig, DataOptions, FinetuneConfig, method_of, recorded
from ntt_cli.data import load_samples
from ntt_cli.data.labels import by_name
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.atomic import can_sync
from ntt_cli.files.results import open_folder, read_results, write_tables
from ntt_cli.networks.loading.models import LoadedModel, load_model
from ntt_cli.networks.loading.open import heeds_seed
from ntt_cli.networks.prepare import pick_prunable, to_functional
from ntt_cli.pruning import prune
from ntt_cli.report.write import write_page
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.runtime.process_group import this_process_group
from ntt_cli.training import job as finetune_task

NOT_SETTINGS = {"methods", "sparsities", "seeds", "jobs", "cell"}
"""A comparison may grow by these."""

START_SECONDS = 5.0
"""For a cell's process to import torch and open its model and data."""


def prepare(config: CompareConfig, on_event: EventSink, *, write: bool) -> list[Cell]:
    """The grid, after a look at everything that its cells share; with `write`, its folder is made.

    Args:
        config: as the user gave it.
        on_event: told what there is to say of model and data, as the cells themselves say nothing.
        write: make the folder.

    Raises:
        DataError: if there is no test data.
        NttError: if anything else is unusable.
    """
    _require_one_process()
    loaded = load_model(config, seed=config.seeds[0])
    task = finetune_task.prepare(_finetune_config(config), on_event)
    _check_seeds(config, loaded, on_event)
    _check_test_data(config, loaded, task.training.samples.class_names, on_event)
    network = to_functional(loaded.module, torch.device("cpu"), lambda _: None, select_outputs=loaded.select_outputs)
    pick_prunable(
        network,
        dataclasses.replace(task.training, device=torch.device("cpu")),
        lambda _: None,
        exclude=config.exclude,
        include=config.include,
        where=config.model,
    )
    settings = {name: value for name, value in recorded(config).items() if name not in NOT_SETTINGS}
    settings |= {"model": loaded.source, "first seed": config.seeds[0]}
    settings |= {name: found.sha256 for name, found in inputs_of(config, loaded, config.methods).items()}
    folder = Path(config.output)
    unrecorded = open_folder(folder, settings, write=write)
    if any(name.startswith(OWN_DATA) for name in unrecorded):  # those of methods that join in are not left out
        known = {f"{OWN_DATA}{result.method}" for result in read_results(folder, CellResult).values()}
        unrecorded = [name for name in unrecorded if not name.startswith(OWN_DATA) or name in known]
    if unrecorded:
        on_event(
            Warned(
                f"{folder} was begun by an older ntt, which left out: {', '.join(unrecorded)}; make sure that"
                " they are what they were"
            )
        )
    if write and not can_sync(folder):
        on_event(Warned(f"the file system does not write to disk when asked: a power cut may cost what is in {folder}"))
    return cells_of(config)


def run(config: CompareConfig, on_event: EventSink) -> CompareReport:
    """Do the cells that have no result yet, and gather all of them.

    A cell that fails is reported and does not end the others.

    Raises:
        NttError: if the model, the data or the folder is unusable.
    """
    cells = prepare(config, on_event, write=True)
    chosen = [_numbered(cells, config.cell)] if config.cell is not None else cells
    waiting = [cell for cell in chosen if result_of(config, cell) is None]
    failed = run_cells(config, waiting, on_event) if waiting else {}
    results = [result for cell in chosen if (result := result_of(config, cell)) is not None]
    page = None
    if config.cell is None:
        write_tables(Path(config.output), results)
        if results:
            folder = Path(config.output)
            page = write_page(comparison_page(folder), folder / "report.html", force=True).output
    return CompareReport(
        output=config.output,
        page=page,
        rows=rows_of(results),
        results=results,
        failed=[
            CellFailure(cell=name, error=failure.error, exit_code=failure.exit_code) for name, failure in failed.items()
        ],
    )


def plan(config: CompareConfig, on_event: EventSink) -> ComparePlan:
    """The cells, and a time for those that are not done, from a few measured steps; nothing is trained."""
    cells = prepare(config, on_event, write=False)
    undone = [cell for cell in cells if result_of(config, cell) is None]
    training = _finetune_config(config)
    task = finetune_task.prepare(training, lambda _: None)  # what there is to say has been said
    one_training = finetune_task.seconds_per_step(task) * finetune_task.steps_of(task)
    # One measurement for each method that moves weights: what it costs hardly depends on sparsity and seed.
    first = {cell.method: cell for cell in reversed(undone) if cell.transfers}
    transfers = {
        method: prune.plan(pruning_of(config, cell), lambda _: None).seconds or 0.0 for method, cell in first.items()
    }
    rates = max(1, len(config.learning_rates))
    seconds = sum(
        one_training * (rates if pilot_of(config, cell) is None else 1)
        + one_training * (method_of(cell.method)[0] == "trained-magnitude")
        + transfers.get(cell.method, 0.0)
        + START_SECONDS
        for cell in undone
    )
    numbered = [
        PlannedCell(number=number, cell=cell.name, done=cell not in undone)
        for number, cell in enumerate(cells, start=1)
    ]
    return ComparePlan(output=config.output, cells=numbered, seconds=seconds)


def _require_one_process() -> None:
    if this_process_group().size > 1:
        raise UsageError(
            "compare under torchrun",
            "would do every cell in each of its processes: a comparison starts processes of its own",
            hint="start it without torchrun; --jobs N runs N cells side by side",
        )


def _check_seeds(config: CompareConfig, loaded: LoadedModel, on_event: EventSink) -> None:
    """Say what differs between the seeds where the network does not."""
    if len(config.seeds) < 2:
        return
    if config.weights is not None or loaded.trained:
        on_event(Noted("all seeds begin with the same weights: deviations are over pruning and training alone"))
    elif not heeds_seed(loaded.module, config, seed=config.seeds[0]):
        what = f"{config.model} builds the same network for every seed, so that deviations over seeds are over pruning"
        hint = "leave torch.manual_seed out of the factory, or say TRAINED = True if it loads weights"
        on_event(Warned(f"{what} and training alone: {hint}"))


def _check_test_data(
    config: CompareConfig, loaded: LoadedModel, class_names: tuple[str, ...] | None, on_event: EventSink
) -> None:
    samples = load_samples(
        DataOptions(**test_data_of(config)), split="test", default=loaded.data, input_shape=loaded.input_shape
    )
    if samples.labels is None:
        raise DataError(samples.spec, "has no labels to test with", hint="name labelled data with --test-data")
    if config.test_data is None and samples.split is None:
        raise DataError(
            samples.spec,
            "is not divided into training and test samples",
            hint="name other labelled data with --test-data, or name arrays x_train, y_train, x_test, y_test",
        )
    by_name(samples, class_names, on_event, purpose="accuracy is over")


def _finetune_config(config: CompareConfig) -> FinetuneConfig:
    return FinetuneConfig(**given_of(config, (*SHARED, *TRAINING)), seed=config.seeds[0], checkpoint=config.weights)


def _numbered(cells: Sequence[Cell], number: int) -> Cell:
    if number > len(cells):
        raise UsageError(f"--cell {number}", f"there are {len(cells)} cells", hint="--plan lists them")
    return cells[number - 1]

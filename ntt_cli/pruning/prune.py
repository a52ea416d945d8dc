"""`ntt prune`: a dense teacher becomes a sparse student, without labels."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ntt_cli.config import PruneConfig, recorded
from ntt_cli.data import data_sha256
from ntt_cli.files.atomic import report_path
from ntt_cli.files.checkpoint import Origin, write_checkpoint
from ntt_cli.files.metadata import RunRecord
from ntt_cli.files.report import history_tensors, mask_tensors, write_report
from ntt_cli.files.shards import find_weights
from ntt_cli.masks.masks import apply_masks, count_kept
from ntt_cli.methods.base import METHODS, one_shot_masks, shuffled
from ntt_cli.methods.ntt.loop import estimate_buffers, layer_densities, run_transfer
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.initialise import rescale_by_density
from ntt_cli.networks.loading.models import load_model
from ntt_cli.networks.prepare import to_functional
from ntt_cli.pruning.estimate import PROBE_STEPS, Estimate, estimate_run
from ntt_cli.pruning.job import Task, prepare
from ntt_cli.pruning.measures import Measures, check_outputs, measure
from ntt_cli.results import OWN_WEIGHTS, LayerSummary, PrunePlan, PruneReport
from ntt_cli.runs.checkpointer import RunCheckpointer, no_checkpoints
from ntt_cli.runs.outputs import finished, open_checkpointer, output_lock, settled
from ntt_cli.runs.run import Run
from ntt_cli.runs.same_run import same_run
from ntt_cli.runs.threads import threads_for
from ntt_cli.runtime.device import pick_device
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.machine import describe_machine
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.process_group import ProcessGroup, this_process_group
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do
from ntt_cli.runtime.signals import Stop
from ntt_cli.tensors import Masks, Params

BARE_SHARE = 0.1
"""Of an embedding's rows, how many may keep a single entry without a word."""

FRESH_SEED = 1_000_003
"""Added to the seed for weights that `ntt-fresh` draws anew."""


@dataclass(frozen=True)
class _Student:
    params: Params
    buffers: Params
    masks: Masks
    history: dict[str, Tensor]


@global_draws_apart()  # of a network that draws in evaluation mode, so that figures repeat
def run(config: PruneConfig, on_event: EventSink, stop: Stop | None = None) -> PruneReport:
    """Prune, and write the checkpoint and then its report.

    Args:
        config: as the user gave it.
        on_event: told how the work goes.
        stop: asks for the end; the transfer's state is saved then.

    Raises:
        NttError: if the input is unusable, the numbers diverge or the output cannot be written.
        Interrupted: if the run was asked to end.
    """
    seed_as_users_do(config.seed)
    output, group = Path(config.output), this_process_group()
    with group.joined(pick_device(config.device)), ExitStack() as claim:
        with group.starting():
            claim.enter_context(output_lock(output, config, group, on_event))
            group.require_one(config.compile, "--compile")
            task = prepare(config, on_event)
            group.require(task.settings.batch_size // 2)
            this = _run_record(task)
            if config.resume and (done := finished(output, this, PruneReport, on_event)):
                return done
            checkpointer = open_checkpointer(
                output, config, kind="prune state", run=this, stop=stop or Stop(), group=group, on_event=on_event
            )
        task = replace(task, teacher=_of_first(task.teacher, group, this, checkpointer))
        micro_batching = MicroBatching(
            task.settings.micro_batch, task.settings.batch_size, on_event, fixed=group.size > 1
        )
        carried = Run(on_event, checkpointer, micro_batching)
        with checkpointer.finishing():
            student = _prune(task, carried)
            if not group.first:
                return _report(task, student, Measures())
            check_outputs(task, student.params, student.buffers, carried)
            _warn_of_bare_rows(task, student.masks, on_event)
            write_checkpoint(
                output,
                task.teacher.state_dict(student.params, student.buffers),
                student.masks,
                Origin(
                    kind="prune",
                    model=task.loaded.record,
                    config=this.config,
                    normalisation=task.normalisation,
                    class_names=task.class_names,
                    run_sha256=this.sha256,
                ),
            )
            measures = measure(task, student.params, student.buffers, carried, steps=task.settings.steps)
            report = _report(task, student, measures)
            write_report(
                report_path(output),
                _report_tensors(student, measures),
                kind="prune report",
                summary=report,
                run_sha256=this.sha256,
            )
    return report


def plan(config: PruneConfig, on_event: EventSink) -> PrunePlan:
    """What `run` would do, with its time and memory from one of each thing that it does, thrown away.

    Layer counts are those at the first step; by saliency they move with the student.
    """
    begun = time.perf_counter()
    task = prepare(config, on_event)
    estimate = Estimate(None, None, None, None, None)
    if config.sparsity == 0:
        masks = task.context().dense()
    elif task.method.score is None:
        student, estimate = _estimate(task, begun, on_event)
        masks = student.masks
    else:
        masks = one_shot_masks(task.method, task.context())
    return PrunePlan(
        model=config.model,
        parameters=sum(p.numel() for p in task.teacher.params.values()),
        prunable=sum(task.sizes.values()),
        kept=count_kept(masks),
        steps=task.settings.steps if task.method.score is None and config.sparsity else 0,
        auto=task.settings.auto,
        seconds_per_step=estimate.seconds_per_step,
        seconds=estimate.seconds,
        peak_memory_bytes=estimate.peak_memory_bytes,
        memory_bytes=estimate.memory_bytes,
        advice=estimate.advice,
        layers=_layers({name: int(mask.sum()) for name, mask in masks.items()}, task),
    )


def _estimate(task: Task, begun: float, on_event: EventSink) -> tuple[Student, Estimate]:
    assert task.inputs is not None
    micro_batching = MicroBatching(task.settings.micro_batch, task.settings.batch_size, on_event)
    carried = Run(on_event, no_checkpoints(), micro_batching)

    def finish(student: Student) -> None:
        ended = _masked(task, student.params, student.masks)
        measure(task, ended.params, ended.buffers, carried, steps=PROBE_STEPS)

    with threads_for(task.teacher, task.inputs):
        transfer = _transfer(task)
        return estimate_run(transfer, micro_batching, finish=finish, before=time.perf_counter() - begun)


def _prune(task: Task, carried: Run) -> _Student:
    if task.config.sparsity == 0:
        return _Student(task.teacher.params, task.teacher.buffers, task.context().dense(), {})
    if task.method.score is not None:
        masks = one_shot_masks(task.method, task.context())
        params = task.teacher.params
        return _masked(
            task, rescale_by_density(params, layer_densities(masks)) if task.method.rescaled else params, masks
        )
    assert task.inputs is not None
    with threads_for(task.teacher, task.inputs):
        moved = run_transfer(_transfer(task), carried)
    if task.method.mask == "kept":
        return _Student(moved.params, moved.buffers, moved.masks, moved.history)
    if task.method.mask == "shuffled":
        generator = torch.Generator().manual_seed(task.config.seed)
        return _masked(
            task,
            task.teacher.params,
            shuffled(moved.masks, slices=task.settings.slices, generator=generator),
            moved.history,
        )
    other = load_model(task.config, seed=task.config.seed + FRESH_SEED)
    fresh = to_functional(other.module, task.inputs.device, carried.on_event, select_outputs=other.select_outputs)
    return _masked(task, fresh.params, moved.masks, moved.history)


def _of_first(
    teacher: FunctionalModel, group: ProcessGroup, this: RunRecord, checkpointer: RunCheckpointer
) -> FunctionalModel:
    """The first process's network, in all of them."""
    if group.size == 1:
        return teacher
    step = checkpointer.found.step if checkpointer.found else 0
    tensors = same_run(group, this, teacher.params | teacher.buffers, step=step)
    return replace(
        teacher,
        params={name: tensors[name] for name in teacher.params},
        buffers={name: tensors[name] for name in teacher.buffers},
    )


def _run_record(task: Task) -> RunRecord:
    config, loaded = task.config, task.loaded
    return RunRecord(
        config=recorded(config) | task.settings.recorded() | settled(loaded, task.inputs),
        model=loaded.record,
        weights_sha256=None if config.weights is None else find_weights(Path(config.weights)).sha256,
        data_sha256=None if task.inputs is None else data_sha256(task.inputs.samples),
        machine=describe_machine(pick_device(config.device)) | {"processes": str(this_process_group().size)},
    )


def _transfer(task: Task) -> Transfer:
    assert task.inputs is not None
    return Transfer(task.teacher, task.inputs, task.names, task.outputs, task.settings, _fixed_masks(task))


def _fixed_masks(task: Task) -> Masks | None:
    """The masks of the method that `--mask` names."""
    if task.config.mask == "learned":
        return None
    method = METHODS[task.config.mask]
    allocation = task.config.allocation or method.allocation or task.settings.allocation
    settings = replace(task.settings, allocation=allocation)
    return one_shot_masks(method, replace(task.context(), settings=settings))


def _masked(task: Task, params: Params, masks: Masks, history: dict[str, Tensor] | None = None) -> _Student:
    """A student of these weights, with batch-norm statistics of its own."""
    masked = apply_masks(params, masks)
    buffers = task.teacher.buffers
    if task.inputs is not None:
        buffers = estimate_buffers(task.teacher, masked, task.inputs)
    return _Student(masked, buffers, masks, history or {})


def _warn_of_bare_rows(task: Task, masks: Masks, on_event: EventSink) -> None:
    """Of embeddings that were included: scores need tokens to occur."""
    for name in task.looked_up:
        rows = masks[name].flatten(1).sum(dim=1)
        bare = int((rows == 1).sum())
        if bare >= BARE_SHARE * len(rows) and float(rows.double().mean()) >= 2:
            on_event(
                Warned(
                    f"{bare:,} of {len(rows):,} rows of {name} keep a single entry, as tokens do that no score saw;"
                    " without --include it stays dense"
                )
            )


def _report(task: Task, student: _Student, measures: Measures) -> PruneReport:
    output = Path(task.config.output)
    kept, prunable = count_kept(student.masks), sum(task.sizes.values())
    return PruneReport(
        output=str(output),
        report=str(report_path(output)),
        model=task.config.model,
        method=task.config.method,
        teacher=_teacher(task),
        data=task.inputs.samples.spec if task.inputs else None,
        steps=len(student.history["total"]) if student.history else 0,
        parameters=sum(p.numel() for p in task.teacher.params.values()),
        prunable=prunable,
        kept=kept,
        sparsity=1 - kept / prunable,
        density=kept / prunable,
        class_names=task.class_names,
        agreement=measures.agreement,
        kernels=measures.kernels.summary if measures.kernels else None,
        layers=_layers({name: int(mask.sum()) for name, mask in student.masks.items()}, task),
    )


def _teacher(task: Task) -> str:
    if task.weights.origin == "factory":
        return OWN_WEIGHTS
    return task.config.weights or f"random weights, seed {task.config.seed}"


def _layers(kept: dict[str, int], task: Task) -> list[LayerSummary]:
    return [
        LayerSummary(
            name=name,
            shape=tuple(task.teacher.params[name].shape),
            kept=kept[name],
            size=size,
            density=kept[name] / size,
        )
        for name, size in task.sizes.items()
    ]


def _report_tensors(student: _Student, measures: Measures) -> dict[str, Tensor]:
    tensors = mask_tensors(student.masks) | history_tensors(student.history)
    for name, mask in student.masks.items():
        tensors[f"layer.{name}.density"] = mask.double().mean()
        tensors[f"layer.{name}.kept"] = mask.sum()
        tensors[f"layer.{name}.norm"] = student.params[name].norm()
    if measures.kernels is not None:
        tensors |= measures.kernels.tensors
    return tensors

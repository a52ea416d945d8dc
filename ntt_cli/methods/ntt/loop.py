"""The transfer from its first step to its last: steps, the schedule and mask updates.

The algorithm of Liu & Zenke 2020, arXiv 2006.08228: optimise the student's weights under its mask, and update the mask
every `mask_update_every` steps. `run_transfer` is the loop; all else here is a part of it.

What it calls, and this folder explains later: a `TransferPlan` knows the steps before which masks are updated;
`Batches` draws the samples and the probe of a step; `Progress` is the student and its history; `validation_distance`
ends the transfer with `--steps auto`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import UsageError
from ntt_cli.masks.masks import apply_masks, layer_densities
from ntt_cli.methods.base import Pruned
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.compiled import CompilationError, CompiledGradients
from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.plan import TransferPlan, plan_transfer
from ntt_cli.methods.ntt.progress import Progress, restore_progress
from ntt_cli.methods.ntt.score import score_batches, update_masks
from ntt_cli.methods.ntt.step import Student, start_student, transfer_step, under_masks
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.methods.ntt.validation import hold_out, validation_distance
from ntt_cli.networks.batch_norm import has_batch_norm, with_variances_of_at_least
from ntt_cli.networks.functional import BoundModel
from ntt_cli.networks.prepare import estimate_buffers
from ntt_cli.runs.checkpointer import RunCheckpointer
from ntt_cli.runs.finite_checks import CHECK_EVERY, check_losses
from ntt_cli.runs.run import Run
from ntt_cli.runtime.events import MasksUpdated, Noted, StepsDone, TransferStarted, Validated
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.memory import give_back_free_memory
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.optimiser import set_rate
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws
from ntt_cli.tensors import Masks, Params

LEAST_VARIANCE = 0.1
"""The least batch-norm variance of a student's channel, relative to the teacher's (docs/notebook/14-batch-norm.md).

A channel without kept weights has a variance of 0, and would be divided by the square root of `eps` alone."""


def run_transfer(transfer: Transfer, run: Run) -> Pruned:
    """Move a student from the teacher's weights to a sparse network with the teacher's kernel and outputs.

    The run's processes share each batch. Its checkpointer may hold the state of an interrupted run to continue.

    Raises:
        DivergedError: if a loss, a weight or a validation distance is no longer finite.
        Interrupted: if the run was asked to end.
    """
    teacher, settings, group = transfer.teacher, transfer.settings, run.group
    plan = plan_transfer(settings, learned=transfer.fixed_masks is None)
    on_training_samples, held_out = hold_out(transfer) if settings.auto else (transfer, None)
    batches = Batches(on_training_samples)
    progress = Progress(_start(transfer))
    execution = transfer.execution(group)
    if run.checkpointer.found is not None:
        progress = restore_progress(progress, run.checkpointer.found, transfer, run.micro_batching)
        plan = plan.after_validation(progress.history.validation)
    sizes = {name: teacher.params[name].numel() for name in transfer.names}
    run.on_event(TransferStarted(plan.steps, sizes, progress.step))
    if settings.compiled and progress.step < plan.steps:
        how_long = "which takes a minute or two, and some seconds where it was done before"
        run.on_event(Noted(f"compiling the steps, {how_long}"))
    state = partial(progress.state, run.micro_batching)
    # The caller's random state is left alone. A signal lets the running step end: the run stops after it.
    with global_draws_apart(transfer.inputs.device), run.stop.patiently():
        while progress.step < plan.steps:
            step = progress.step
            seed_global_draws(settings.seed, step, group.rank)  # so that a continued run draws the same numbers
            if held_out is not None and plan.is_validation_step(step):
                distance = _validate(progress, held_out, run)
                plan = plan.after_validation(progress.history.validation)
                run.on_event(Validated(step, distance, None if plan.undecided else plan.steps))
            if step in plan.updates:
                run.on_event(_update(progress, on_training_samples, plan, run))
            set_rate(progress.student.optimiser, settings.learning_rate * plan.rate(step))
            _advance(progress, batches, run, execution, steps=plan.steps)
            run.checkpointer.maybe_save(state)
        _check_finite(progress.student.params, plan.steps, run.checkpointer)
        run.checkpointer.save_if_unfinished(state)
    student = progress.student
    buffers = student.apply.buffers
    if student.apply.batch_statistics:  # no step has used the running statistics
        buffers = group.broadcast(estimate_buffers(teacher, student.masked_params, transfer.inputs))
    return Pruned(student.masked_params, buffers, student.masks, progress.history.as_tensors())


def take_step(
    student: Student, batches: Batches, step: int, micro_batching: MicroBatching, execution: Execution
) -> TransferLoss:
    """Take one step on its batch, in place.

    Raises:
        UsageError: if steps are to be compiled, and cannot be.
    """
    objective = batches.transfer.settings.objective

    def move(execution: Execution) -> TransferLoss:
        batch = batches.at(step, execution)
        of_batch = objective.on(batches.transfer.teacher, batch.x1, batch.x2)
        return transfer_step(student, batch, of_batch, execution)

    try:
        return micro_batching.run(move, execution)
    except CompilationError as error:
        hint = "run without it, or install a C++ compiler (on a GPU, Triton)"
        raise UsageError("--compile", f"failed: {error}", hint=hint) from error


def _advance(progress: Progress, batches: Batches, run: Run, execution: Execution, *, steps: int) -> None:
    """Take the next of so many steps, note and check its loss, and now and then tell how far the transfer is."""
    try:
        loss = take_step(progress.student, batches, progress.step, run.micro_batching, execution)
    except FloatingPointError as error:
        raise run.checkpointer.diverged(f"step {progress.step + 1}", str(error)) from error
    history = progress.history
    history.losses.append(loss)
    progress.step += 1
    totals, last = [loss.total for loss in history.losses], progress.step == steps
    check_losses(totals, progress.step, run.checkpointer, last=last, whose="transfer's")
    if progress.step % CHECK_EVERY == 0 or last:
        kernel = None if loss.kernel_distance is None else float(loss.kernel_distance)
        run.on_event(StepsDone(progress.step, kernel, float(loss.logit_distance)))
        history.gather()


def first_student(transfer: Transfer, micro_batching: MicroBatching) -> Student:
    """The student before the first step, at the final density already: `--dry-run` times its steps."""
    student, density = _start(transfer), transfer.settings.density
    masks = transfer.fixed_masks or update_masks(student, transfer, density, micro_batching)
    return under_masks(student, masks, density=density, apply=_function(student, masks, transfer, SINGLE))


def _start(transfer: Transfer) -> Student:
    teacher, settings = transfer.teacher, transfer.settings
    compiled = CompiledGradients(teacher) if settings.compiled else None
    first = teacher if transfer.start is None else replace(teacher, params=transfer.start)
    return start_student(
        first,
        transfer.names,
        learning_rate=settings.learning_rate,
        batch_statistics=has_batch_norm(teacher) and not settings.objective.kernel_weight,
        limited=settings.trained,
        compiled=compiled,
    )


def _function(student: Student, masks: Masks, transfer: Transfer, group: ProcessGroup) -> BoundModel:
    """The student's function under new masks, with batch-norm statistics for its steps, if they use any."""
    if student.apply.batch_statistics or not has_batch_norm(transfer.teacher):
        return student.apply
    return replace(student.apply, buffers=group.broadcast(_statistics(student, masks, transfer, transfer.inputs)))


def _scored(student: Student, transfer: Transfer) -> Student:
    """The student with batch-norm statistics for its scores, which steps by batch statistics do not keep."""
    if not student.apply.batch_statistics:
        return student
    few = transfer.inputs.some(score_batches(transfer.settings) * transfer.settings.batch_size)
    buffers = _statistics(student, student.masks, transfer, few)
    return replace(student, apply=replace(student.apply, buffers=buffers))


def _statistics(student: Student, masks: Masks, transfer: Transfer, inputs: Inputs) -> Params:
    teacher = transfer.teacher
    estimated = estimate_buffers(teacher, apply_masks(student.params, masks), inputs)
    return with_variances_of_at_least(LEAST_VARIANCE, estimated, teacher.buffers)


def _update(progress: Progress, transfer: Transfer, plan: TransferPlan, run: Run) -> MasksUpdated:
    """Put the student under new masks, or under the fixed ones."""
    _check_finite(progress.student.params, progress.step, run.checkpointer)
    give_back_free_memory()  # the scores cannot use the gaps in memory that steps leave, nor steps those of the scores
    density, masks = transfer.settings.density, transfer.fixed_masks
    if masks is None:
        density = plan.density(progress.step)
        masks = progress.student.masks
        if run.group.first:  # rounding may rank weights in another order in another process
            masks = update_masks(_scored(progress.student, transfer), transfer, density, run.micro_batching)
        masks = run.group.broadcast(masks)
    apply = _function(progress.student, masks, transfer, run.group)
    changes = progress.update(masks, density=density, apply=apply)
    give_back_free_memory()
    return MasksUpdated(progress.step, density, changes, layer_densities(masks))


def _check_finite(params: Params, step: int, checkpointer: RunCheckpointer) -> None:
    if not all(p.isfinite().all() for p in params.values()):
        raise checkpointer.diverged(f"step {step}", "the student's weights are no longer finite")


def _validate(progress: Progress, held_out: Batches, run: Run) -> float:
    """Measure the validation distance in the first process, and note it."""
    student, step = progress.student, progress.step
    distance = torch.zeros((), device=next(iter(student.params.values())).device)
    if run.group.first:
        distance += run.micro_batching.run(lambda execution: validation_distance(student, held_out, execution))
    found = float(run.group.broadcast({"distance": distance})["distance"])
    if not math.isfinite(found):
        raise run.checkpointer.diverged(f"step {step}", "the distance on the samples held out is no longer finite")
    progress.history.validation[step] = found
    return found

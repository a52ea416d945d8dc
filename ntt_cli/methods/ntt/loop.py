"""The transfer from its first step to its last: batches, schedule and mask updates around `core.transfer`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import UsageError
from ntt_cli.masks.masks import apply_masks, layer_densities
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.compiled import CompilationError, CompiledGradients
from ntt_cli.methods.ntt.mask_update import choose
from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.plan import plan_transfer
from ntt_cli.methods.ntt.progress import Progress, restore_progress
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student, start_student, transfer_step, update_masks
from ntt_cli.methods.ntt.validation import Validation, held_out
from ntt_cli.networks.batch_norm import has_batch_norm, with_variances_of_at_least
from ntt_cli.networks.flops import uses_weights_seldom
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.prepare import estimate_buffers
from ntt_cli.runs.checkpointer import RunCheckpointer
from ntt_cli.runs.finite_checks import CHECK_EVERY, check_losses
from ntt_cli.runtime.events import EventSink, MasksUpdated, Noted, StepsDone, TransferStarted, Validated
from ntt_cli.runtime.memory import give_back_free_memory
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws
from ntt_cli.tensors import Masks, Params

LEAST_VARIANCE = 0.1
"""Of a channel of the student, relative to the teacher's."""


@dataclass(frozen=True)
class TransferResult:
    """The student after its last step.

    Attributes:
        params: `m ⊙ w`.
        buffers: with the student's own batch-norm statistics.
        masks: `True` = kept.
        history: per step the parts of the loss; per mask update its step, density and changes.
    """

    params: Params
    buffers: Params
    masks: Masks
    history: dict[str, Tensor]


def run_transfer(
    teacher: FunctionalModel,
    inputs: Inputs,
    names: tuple[str, ...],
    *,
    outputs: int,
    settings: TransferSettings,
    fixed_masks: Masks | None = None,
    micro_batching: MicroBatching,
    checkpointer: RunCheckpointer,
    group: ProcessGroup = SINGLE,
    on_event: EventSink,
) -> TransferResult:
    """Move a student from the teacher's weights to a sparse network of the same kernel and logits.

    Args:
        teacher: calibrated, on the inputs' device.
        inputs: unlabelled.
        names: the prunable weights.
        outputs: number of logits.
        settings: how.
        fixed_masks: masks that another method chose, for weights alone to be moved; `None` to learn them.
        micro_batching: how many samples go through the network at once.
        checkpointer: of the state, which may hold one to go on from.
        group: the processes that share each batch; masks are chosen once, by the first.
        on_event: told about mask updates and steps.

    Raises:
        DivergedError: as soon as a look at the numbers finds one that is not finite.
        Interrupted: if the run is to end.
    """
    plan = plan_transfer(settings, learned=fixed_masks is None)
    training, validation = inputs, None
    if settings.auto:
        training, validation = held_out(inputs, teacher, outputs=outputs, settings=settings)
    batches = Batches(teacher, training, outputs, settings, group)
    progress = Progress(_start(teacher, inputs, names, settings), teacher.buffers)
    if checkpointer.found is not None:
        progress = restore_progress(progress, checkpointer.found, teacher, micro_batching, settings)
        plan = plan.after_validation(progress.history.validation)
    on_event(TransferStarted(plan.steps, {name: teacher.params[name].numel() for name in names}, progress.step))
    if settings.compiled and progress.step < plan.steps:
        on_event(Noted("compiling the steps, which takes a minute or two, and some seconds where it was done before"))
    with global_draws_apart(inputs.device), checkpointer.stop.patiently():
        while progress.step < plan.steps:
            step = progress.step
            seed_global_draws(settings.seed, step, group.rank)
            if validation is not None and plan.is_validation_step(step):
                distance = _validate(progress, validation, checkpointer, micro_batching, group)
                plan = plan.after_validation(progress.history.validation)
                on_event(Validated(step, distance, None if plan.open else plan.steps))
            if step in plan.updates:
                _check_finite(progress.student.params, step, checkpointer)
                give_back_free_memory()  # scores and steps leave gaps of sizes that the other cannot use
                density, masks = settings.density, fixed_masks
                if masks is None:
                    density = plan.density(step)
                    masks = progress.student.masks
                    if group.first:  # others might round a score to the other side of the last one kept
                        masks = choose(progress.student, teacher, training, outputs, settings, density, micro_batching)
                    masks = group.from_first(masks)
                on_event(_update(progress, masks, density, teacher, training, group))
                give_back_free_memory()
            loss = _advance(progress, batches, settings, micro_batching, checkpointer)
            _check_step(progress, loss, checkpointer, on_event, last=progress.step == plan.steps)
            checkpointer.maybe_save(lambda: progress.state(teacher, micro_batching))
        _check_finite(progress.student.params, plan.steps, checkpointer)
        checkpointer.save_if_unfinished(lambda: progress.state(teacher, micro_batching))
    return TransferResult(
        params=progress.student.masked_params,
        buffers=progress.buffers,
        masks=progress.student.masks,
        history=progress.history.as_tensors(),
    )


def take_step(
    student: Student, batches: Batches, step: int, settings: TransferSettings, micro_batching: MicroBatching
) -> TransferLoss:
    """Move the student on the step's batch, in place.

    Raises:
        UsageError: if steps are to be compiled, and cannot be.
    """

    def move(chunk: int | None) -> TransferLoss:
        batch = batches.at(step, chunk=chunk)
        return transfer_step(
            student,
            batch.x1,
            batch.x2,
            probe=batch.probe,
            teacher=batch.teacher,
            objective=settings.objective,
            active=settings.active,
            chunk=chunk,
            total=batches.group.total,
        )

    try:
        return micro_batching.run(move)
    except CompilationError as error:
        raise UsageError(
            "--compile", f"failed: {error}", hint="run without it, or install a C++ compiler (on a GPU, Triton)"
        ) from error


def _advance(
    progress: Progress,
    batches: Batches,
    settings: TransferSettings,
    micro_batching: MicroBatching,
    checkpointer: RunCheckpointer,
) -> TransferLoss:
    try:
        loss = take_step(progress.student, batches, progress.step, settings, micro_batching)
    except FloatingPointError as error:
        raise checkpointer.diverged(f"step {progress.step + 1}", str(error)) from error
    progress.history.losses.append(loss)
    progress.step += 1
    return loss


def first_student(
    teacher: FunctionalModel,
    inputs: Inputs,
    names: tuple[str, ...],
    *,
    outputs: int,
    settings: TransferSettings,
    fixed_masks: Masks | None = None,
    micro_batching: MicroBatching,
) -> Student:
    """The student of a transfer that reaches its density at once, before its first step."""
    student = _start(teacher, inputs, names, settings)
    masks = fixed_masks or choose(student, teacher, inputs, outputs, settings, settings.density, micro_batching)
    buffers = _student_buffers(teacher, student.params, masks, inputs)
    return update_masks(student, masks, density=settings.density, apply=teacher.bind(buffers))


def _start(teacher: FunctionalModel, inputs: Inputs, names: tuple[str, ...], settings: TransferSettings) -> Student:
    return start_student(
        teacher.bind(),
        teacher.params,
        names,
        learning_rate=settings.learning_rate,
        keep_graph=uses_weights_seldom(teacher.bind(), teacher.params, inputs.batch(torch.arange(1))),
        compiled=CompiledGradients(teacher) if settings.compiled else None,
    )


def _student_buffers(teacher: FunctionalModel, params: Params, masks: Masks, inputs: Inputs) -> Params:
    """Those of the student under these masks; the teacher's where there is no batch norm."""
    estimated = estimate_buffers(teacher, apply_masks(params, masks), inputs)
    return with_variances_of_at_least(LEAST_VARIANCE, estimated, teacher.buffers)


def _update(
    progress: Progress, masks: Masks, density: float, teacher: FunctionalModel, inputs: Inputs, group: ProcessGroup
) -> MasksUpdated:
    """Put the student under these masks, with batch-norm statistics of its own."""
    buffers = progress.buffers
    if has_batch_norm(teacher):
        buffers = group.from_first(_student_buffers(teacher, progress.student.params, masks, inputs))
    changes = progress.update(masks, density=density, buffers=buffers, teacher=teacher)
    return MasksUpdated(progress.step, density, changes, layer_densities(masks))


def _check_finite(params: Params, step: int, checkpointer: RunCheckpointer) -> None:
    if not all(p.isfinite().all() for p in params.values()):
        raise checkpointer.diverged(f"step {step}", "the student's weights are no longer finite")


def _validate(
    progress: Progress,
    validation: Validation,
    checkpointer: RunCheckpointer,
    micro_batching: MicroBatching,
    group: ProcessGroup,
) -> float:
    student, step = progress.student, progress.step
    distance = torch.zeros((), device=next(iter(student.params.values())).device)
    if group.first:
        distance += micro_batching.run(lambda chunk: validation.distance(student, chunk=chunk))
    found = float(group.from_first({"distance": distance})["distance"])
    if not math.isfinite(found):
        raise checkpointer.diverged(f"step {step}", "the distance on the samples held out is no longer finite")
    progress.history.validation[step] = found
    return found


def _check_step(
    progress: Progress, loss: TransferLoss, checkpointer: RunCheckpointer, on_event: EventSink, *, last: bool
) -> None:
    history, step = progress.history, progress.step
    check_losses([loss.total for loss in history.losses], step, checkpointer, last=last, whose="transfer's")
    if step % CHECK_EVERY == 0 or last:
        kernel = None if loss.kernel_distance is None else float(loss.kernel_distance)
        on_event(StepsDone(step, kernel, float(loss.logit_distance)))
        history.gather()

"""The transfer from its first step to its last: batches, schedule and mask updates around `core.transfer`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import UsageError
from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.compiled import CompilationError, CompiledGradients
from ntt_cli.methods.ntt.mask_update import choose
from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.plan import course_of
from ntt_cli.methods.ntt.progress import Progress, restore_progress
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student, start_student, transfer_step, update_masks
from ntt_cli.methods.ntt.validation import Validation, held_out
from ntt_cli.networks.batch_norm import estimate_statistics, has_batch_norm, with_variances_of_at_least
from ntt_cli.networks.flops import uses_weights_seldom
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.runs.checkpointer import Keeper
from ntt_cli.runs.finite_checks import LOOK_EVERY, check_losses
from ntt_cli.runtime.events import EventSink, MasksUpdated, Noted, StepsDone, TransferStarted, Validated
from ntt_cli.runtime.memory import give_back_free_memory
from ntt_cli.runtime.micro_batching import Room
from ntt_cli.runtime.process_group import ALONE, World
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws
from ntt_cli.tensors import Masks, Params

LEAST_VARIANCE = 0.1
"""Of a channel of the student, relative to the teacher's."""

STATISTICS_SAMPLES = 2048
STATISTICS_BATCH = 128


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
    held: Masks | None = None,
    room: Room,
    keeper: Keeper,
    world: World = ALONE,
    on_event: EventSink,
) -> TransferResult:
    """Move a student from the teacher's weights to a sparse network of the same kernel and logits.

    Args:
        teacher: calibrated, on the inputs' device.
        inputs: unlabelled.
        names: the prunable weights.
        outputs: number of logits.
        settings: how.
        held: masks that another method chose, for weights alone to be moved; `None` to learn them.
        room: how many samples go through the network at once.
        keeper: of the state, which may hold one to go on from.
        world: the processes that share each batch; masks are chosen once, by the first.
        on_event: told about mask updates and steps.

    Raises:
        DivergedError: as soon as a look at the numbers finds one that is not finite.
        Interrupted: if the run is to end.
    """
    course = course_of(settings, learned=held is None)
    training, validation = inputs, None
    if settings.auto:
        training, validation = held_out(inputs, teacher, outputs=outputs, settings=settings)
    batches = Batches(teacher, training, outputs, settings, world)
    progress = Progress(_start(teacher, inputs, names, settings), teacher.buffers)
    if keeper.found is not None:
        progress = restore_progress(progress, keeper.found, teacher, room, settings)
        course = course.after_all(progress.history.validation)
    on_event(TransferStarted(course.steps, {name: teacher.params[name].numel() for name in names}, progress.step))
    if settings.compiled and progress.step < course.steps:
        on_event(Noted("compiling the steps, which takes a minute or two, and some seconds where it was done before"))
    with global_draws_apart(inputs.device), keeper.stop.patiently():
        while progress.step < course.steps:
            step = progress.step
            seed_global_draws(settings.seed, step, world.rank)
            if validation is not None and course.looks_at(step):
                distance = _validate(progress, validation, keeper, room, world)
                course = course.after_all(progress.history.validation)
                on_event(Validated(step, distance, None if course.open else course.steps))
            if step in course.updates:
                _check_finite(progress.student.params, step, keeper)
                give_back_free_memory()  # scores and steps leave gaps of sizes that the other cannot use
                density, masks = settings.density, held
                if masks is None:
                    density = course.density(step)
                    masks = progress.student.masks
                    if world.first:  # others might round a score to the other side of the last one kept
                        masks = choose(progress.student, teacher, training, outputs, settings, density, room)
                    masks = world.from_first(masks)
                on_event(_update(progress, masks, density, teacher, training, world))
                give_back_free_memory()
            loss = _advance(progress, batches, settings, room, keeper)
            _look(progress, loss, keeper, on_event, last=progress.step == course.steps)
            keeper.offer(lambda: progress.state(teacher, room))
        _check_finite(progress.student.params, course.steps, keeper)
        keeper.hold(lambda: progress.state(teacher, room))
    return TransferResult(
        params=progress.student.masked_params,
        buffers=progress.buffers,
        masks=progress.student.masks,
        history=progress.history.as_tensors(),
    )


def take_step(student: Student, batches: Batches, step: int, settings: TransferSettings, room: Room) -> TransferLoss:
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
            total=batches.world.total,
        )

    try:
        return room.run(move)
    except CompilationError as error:
        raise UsageError(
            "--compile", f"failed: {error}", hint="run without it, or install a C++ compiler (on a GPU, Triton)"
        ) from error


def _advance(
    progress: Progress, batches: Batches, settings: TransferSettings, room: Room, keeper: Keeper
) -> TransferLoss:
    try:
        loss = take_step(progress.student, batches, progress.step, settings, room)
    except FloatingPointError as error:
        raise keeper.diverged(f"step {progress.step + 1}", str(error)) from error
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
    held: Masks | None = None,
    room: Room,
) -> Student:
    """The student of a transfer that reaches its density at once, before its first step."""
    student = _start(teacher, inputs, names, settings)
    masks = held or choose(student, teacher, inputs, outputs, settings, settings.density, room)
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


def estimate_buffers(model: FunctionalModel, params: Params, inputs: Inputs) -> Params:
    """The model's buffers with batch-norm statistics of these parameters; the very same where it has no batch norm."""
    if not has_batch_norm(model):
        return model.buffers
    batches = inputs.some(STATISTICS_SAMPLES).in_order(STATISTICS_BATCH)
    return estimate_statistics(model, params, model.buffers, batches)


def _student_buffers(teacher: FunctionalModel, params: Params, masks: Masks, inputs: Inputs) -> Params:
    """Those of the student under these masks; the teacher's where there is no batch norm."""
    estimated = estimate_buffers(teacher, apply_masks(params, masks), inputs)
    return with_variances_of_at_least(LEAST_VARIANCE, estimated, teacher.buffers)


def layer_densities(masks: Masks) -> dict[str, float]:
    """Kept fraction of each layer."""
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def _update(
    progress: Progress, masks: Masks, density: float, teacher: FunctionalModel, inputs: Inputs, world: World
) -> MasksUpdated:
    """Put the student under these masks, with batch-norm statistics of its own."""
    buffers = progress.buffers
    if has_batch_norm(teacher):
        buffers = world.from_first(_student_buffers(teacher, progress.student.params, masks, inputs))
    changes = progress.update(masks, density=density, buffers=buffers, teacher=teacher)
    return MasksUpdated(progress.step, density, changes, layer_densities(masks))


def _check_finite(params: Params, step: int, keeper: Keeper) -> None:
    if not all(p.isfinite().all() for p in params.values()):
        raise keeper.diverged(f"step {step}", "the student's weights are no longer finite")


def _validate(progress: Progress, validation: Validation, keeper: Keeper, room: Room, world: World) -> float:
    student, step = progress.student, progress.step
    distance = torch.zeros((), device=next(iter(student.params.values())).device)
    if world.first:
        distance += room.run(lambda chunk: validation.distance(student, chunk=chunk))
    found = float(world.from_first({"distance": distance})["distance"])
    if not math.isfinite(found):
        raise keeper.diverged(f"step {step}", "the distance on the samples held out is no longer finite")
    progress.history.validation[step] = found
    return found


def _look(progress: Progress, loss: TransferLoss, keeper: Keeper, on_event: EventSink, *, last: bool) -> None:
    history, step = progress.history, progress.step
    check_losses([loss.total for loss in history.losses], step, keeper, last=last, whose="transfer's")
    if step % LOOK_EVERY == 0 or last:
        kernel = None if loss.kernel_distance is None else float(loss.kernel_distance)
        on_event(StepsDone(step, kernel, float(loss.logit_distance)))
        history.gather()

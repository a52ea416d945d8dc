"""The transfer from its first step to its last: batches, schedule and mask updates around `core.transfer`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from ntt_cli.core.batch_norm import estimate_statistics, has_batch_norm
from ntt_cli.core.functional import FunctionalModel, Masks, Params
from ntt_cli.core.masks import apply_masks, count_changes
from ntt_cli.core.objective import TransferLoss
from ntt_cli.core.rounds import masks_at, on_the_way
from ntt_cli.core.schedule import density_at, mask_update_steps
from ntt_cli.core.scores.saliency import logit_sensitivities, saliency_scores
from ntt_cli.core.scores.weights_alone import magnitude_scores
from ntt_cli.core.transfer import Student, start_student, transfer_step, update_masks
from ntt_cli.errors import DivergedError
from ntt_cli.workflows.batches import Batches
from ntt_cli.workflows.events import EventSink, MasksUpdated, StepsDone, TransferStarted
from ntt_cli.workflows.prepare import Inputs
from ntt_cli.workflows.room import Room
from ntt_cli.workflows.settings import TransferSettings

LOOK_EVERY = 20
"""Steps between two looks at the losses: at each, host and device wait for each other."""

SALIENCY_BATCHES = 10
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


@dataclass
class _History:
    losses: list[TransferLoss] = field(default_factory=list)
    update_steps: list[int] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)

    def as_tensors(self) -> dict[str, Tensor]:
        parts = {part.name: [getattr(loss, part.name) for loss in self.losses] for part in fields(TransferLoss)}
        taken = {name: torch.stack(values).cpu() for name, values in parts.items() if values[0] is not None}
        return taken | {
            "mask_update_step": torch.tensor(self.update_steps),
            "density": torch.tensor(self.densities),
            "mask_changes": torch.tensor(self.changes),
        }


def run_transfer(
    teacher: FunctionalModel,
    inputs: Inputs,
    names: tuple[str, ...],
    *,
    outputs: int,
    settings: TransferSettings,
    held: Masks | None = None,
    room: Room,
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
        on_event: told about mask updates and steps.

    Raises:
        DivergedError: as soon as a look at the losses finds one that is not finite.
    """
    on_event(TransferStarted(settings.steps, {name: teacher.params[name].numel() for name in names}))
    batches = Batches(teacher, inputs, outputs, settings)
    apply_teacher = teacher.bind()
    buffers = teacher.buffers
    student = start_student(apply_teacher, teacher.params, names, learning_rate=settings.learning_rate)
    history = _History()
    updates = mask_update_steps(steps=settings.steps, every=settings.mask_update_every) if held is None else range(1)
    for step in range(settings.steps):
        if step in updates:
            _check_finite(student.params, step)
            if held is None:
                density = density_at(
                    settings.schedule, step, updates=updates, steps=settings.steps, density=settings.density
                )
                masks = _choose(student, inputs, outputs, settings, density, room)
            else:
                density, masks = settings.density, held
            if step == updates[-1]:
                buffers = estimate_buffers(teacher, apply_masks(student.params, masks), inputs)
            apply = apply_teacher if buffers is teacher.buffers else teacher.bind(buffers)
            changes = count_changes(student.masks, masks)
            student = update_masks(student, masks, density=density, apply=apply)
            history.update_steps.append(step)
            history.densities.append(density)
            history.changes.append(changes)
            on_event(MasksUpdated(step, density, changes, layer_densities(masks)))
        loss = take_step(student, batches, step, settings, room)
        history.losses.append(loss)
        if step % LOOK_EVERY == LOOK_EVERY - 1 or step == settings.steps - 1:
            _look(loss, step + 1, on_event)
    _check_finite(student.params, settings.steps)
    return TransferResult(
        params=student.masked_params, buffers=buffers, masks=student.masks, history=history.as_tensors()
    )


def take_step(student: Student, batches: Batches, step: int, settings: TransferSettings, room: Room) -> TransferLoss:
    """Move the student on the step's batch, in place."""

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
        )

    return room.run(move)


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
    student = start_student(teacher.bind(), teacher.params, names, learning_rate=settings.learning_rate)
    masks = held or _choose(student, inputs, outputs, settings, settings.density, room)
    return update_masks(student, masks, density=settings.density, apply=student.apply)


def estimate_buffers(model: FunctionalModel, params: Params, inputs: Inputs) -> Params:
    """The model's buffers with batch-norm statistics of these parameters; the very same where it has no batch norm."""
    if not has_batch_norm(model):
        return model.buffers
    batches = inputs.some(STATISTICS_SAMPLES).in_order(STATISTICS_BATCH)
    return estimate_statistics(model, params, model.buffers, batches)


def layer_densities(masks: Masks) -> dict[str, float]:
    """Kept fraction of each layer."""
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def _choose(
    student: Student, inputs: Inputs, outputs: int, settings: TransferSettings, density: float, room: Room
) -> Masks:
    by_hand = on_the_way(settings.by_hand, density=density, target=settings.density)
    scores = room.run(lambda chunk: _score(student, inputs, outputs, settings, chunk))
    return masks_at(scores, allocation=settings.allocation, density=density, by_hand=by_hand)


def _score(
    student: Student, inputs: Inputs, outputs: int, settings: TransferSettings, chunk: int | None
) -> dict[str, Tensor]:
    if settings.score == "magnitude":
        return magnitude_scores(student.params, student.masks)
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches at each update
    batches = (
        inputs.batch(torch.randint(len(inputs), (settings.batch_size,), generator=generator))
        for _ in range(SALIENCY_BATCHES)
    )
    sensitivities = logit_sensitivities(
        student.apply, student.masked_params, batches, outputs=outputs, generator=generator, chunk=chunk
    )
    return saliency_scores(student.params, sensitivities, student.masks)


def _check_finite(params: Params, step: int) -> None:
    if not all(p.isfinite().all() for p in params.values()):
        raise DivergedError(
            f"step {step}",
            "the student's weights are no longer finite",
            hint="try a smaller --learning-rate; nothing was written",
        )


def _look(loss: TransferLoss, step: int, on_event: EventSink) -> None:
    if not loss.total.isfinite():
        raise DivergedError(
            f"step {step}",
            "the transfer's loss is no longer finite",
            hint="try a smaller --learning-rate; nothing was written",
        )
    kernel = None if loss.kernel_distance is None else float(loss.kernel_distance)
    on_event(StepsDone(step, kernel, float(loss.logit_distance)))

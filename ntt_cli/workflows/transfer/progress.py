"""How far a transfer has come: its student and its history, and both as a state on disk."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from ntt_cli.core.functional import FunctionalModel, Masks, Params
from ntt_cli.core.masks import as_bits, count_changes
from ntt_cli.core.objective import TransferLoss
from ntt_cli.core.optimiser import optimiser_tensors, restore_optimiser
from ntt_cli.core.transfer import Student, update_masks
from ntt_cli.errors import ResumeError
from ntt_cli.io.state import State, prefixed
from ntt_cli.workflows.runs.room import Room


@dataclass
class History:
    """What happened at each step and each mask update.

    Attributes:
        earlier: the losses of steps by part, those of an earlier process included.
        losses: of the steps since.
        update_steps: steps before which masks were chosen.
        densities: from then on.
        changes: entries whose fate changed.
        validation: by step, the distance on samples held out, where it is looked at.
    """

    earlier: dict[str, Tensor] = field(default_factory=dict)
    losses: list[TransferLoss] = field(default_factory=list)
    update_steps: list[int] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)

    def loss_tensors(self) -> dict[str, Tensor]:
        """Each part of the loss over all steps, `[steps]`, on the CPU."""
        parts = {part.name: [getattr(loss, part.name) for loss in self.losses] for part in fields(TransferLoss)}
        taken = {name: values for name, values in parts.items() if values and values[0] is not None}
        recent = {name: torch.stack(values).detach().cpu() for name, values in taken.items()}
        if not self.earlier or not recent:
            return self.earlier or recent
        return {name: torch.cat([self.earlier[name], values]) for name, values in recent.items()}

    def gather(self) -> None:
        """Put the losses together: many small tensors among a step's large ones keep the memory between from use."""
        self.earlier, self.losses = self.loss_tensors(), []

    def as_tensors(self) -> dict[str, Tensor]:
        """All of it, for the report."""
        looks = {
            "validation_step": torch.tensor(list(self.validation)),
            "validation_distance": torch.tensor(list(self.validation.values())),
        }
        return (
            self.loss_tensors()
            | (looks if self.validation else {})
            | {
                "mask_update_step": torch.tensor(self.update_steps),
                "density": torch.tensor(self.densities),
                "mask_changes": torch.tensor(self.changes),
            }
        )


@dataclass
class Progress:
    """A transfer between two steps.

    Attributes:
        student: its parameters and optimiser move in place; everything else is replaced.
        buffers: the student's; the teacher's own until the first mask update.
        step: steps done.
        history: of these steps.
    """

    student: Student
    buffers: Params
    step: int = 0
    history: History = field(default_factory=History)

    def update(self, masks: Masks, *, density: float, buffers: Params, teacher: FunctionalModel) -> int:
        """Put the student under new masks, and return how many entries changed their fate."""
        if buffers is not self.buffers:
            self.student = replace(self.student, apply=teacher.bind(buffers))
            self.buffers = buffers
        changes = count_changes(self.student.masks, masks)
        self.student = update_masks(self.student, masks, density=density, apply=self.student.apply)
        self.history.update_steps.append(self.step)
        self.history.densities.append(density)
        self.history.changes.append(changes)
        return changes

    def state(self, teacher: FunctionalModel, room: Room) -> State:
        """Everything that the steps to come depend on."""
        student, history = self.student, self.history
        own = {} if self.buffers is teacher.buffers else self.buffers
        return State(
            step=self.step,
            tensors=prefixed("param", student.params)
            | prefixed("mask", student.masks)
            | prefixed("buffer", own)
            | prefixed("optimiser", optimiser_tensors(student.optimiser))
            | prefixed("history", history.loss_tensors()),
            values={
                "density": student.density,
                "update_steps": history.update_steps,
                "densities": history.densities,
                "changes": history.changes,
                "validation": list(history.validation.items()),
                "room": room.state(),
            },
        )


def restore_progress(fresh: Progress, state: State, teacher: FunctionalModel, room: Room) -> Progress:
    """The progress whose `state` this is.

    Args:
        fresh: the same transfer before its first step; its parameters and optimiser are moved in place.
        state: as read.
        teacher: of both.
        room: set as it was.

    Raises:
        ResumeError: if the state is of another network.
    """
    student, params = fresh.student, state.part("param")
    if {name: p.shape for name, p in params.items()} != {name: p.shape for name, p in student.params.items()}:
        raise ResumeError(
            "the state to go on from",
            "is of a network with other parameters",
            hint="go on with the same model, or start from the beginning with --force and without --resume",
        )
    with torch.no_grad():
        for name, p in student.params.items():
            p.copy_(params[name])
    restore_optimiser(student.optimiser, state.part("optimiser"))
    device = next(iter(student.params.values())).device
    own = {name: value.to(device) for name, value in state.part("buffer").items()}
    room.restore(state.values["room"])
    return Progress(
        student=replace(
            student,
            apply=teacher.bind(own) if own else student.apply,
            mask_bits=as_bits(state.part("mask"), student.params),
            density=state.values["density"],
        ),
        buffers=own or fresh.buffers,
        step=state.step,
        history=History(
            earlier=state.part("history"),
            update_steps=list(state.values["update_steps"]),
            densities=list(state.values["densities"]),
            changes=list(state.values["changes"]),
            validation=dict(state.values["validation"]),
        ),
    )

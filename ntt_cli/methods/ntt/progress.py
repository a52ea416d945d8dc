"""The progress of a transfer: its student and its history, in memory and as a state on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from ntt_cli.files.metadata import Record
from ntt_cli.files.state import State, prefixed
from ntt_cli.masks.masks import count_changes
from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student, under_masks
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.functional import BoundModel
from ntt_cli.runs.optimiser_state import restore_from
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.optimiser import optimiser_tensors
from ntt_cli.tensors import Masks

OF_KERNELS = ("kernel_distance", "alignment")
"""The terms of a loss that are `None` without a kernel term."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Density = Annotated[float, Field(gt=0, le=1)]


@dataclass
class History:
    """What happened at each step and each mask update.

    Attributes:
        earlier: the terms of the loss over the first steps, `[steps]` each, those before an interruption included.
        losses: the losses of the steps since, one by one.
        update_steps: the steps before which masks were updated.
        densities: the density from each mask update on.
        changes: the number of mask entries that changed at each update.
        validation: the validation distance by step, where it was measured.
    """

    earlier: dict[str, Tensor] = field(default_factory=dict)
    losses: list[TransferLoss] = field(default_factory=list)
    update_steps: list[int] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)

    def loss_tensors(self) -> dict[str, Tensor]:
        """Each term of the loss over all steps, `[steps]`, on the CPU."""
        parts = {part.name: [getattr(loss, part.name) for loss in self.losses] for part in fields(TransferLoss)}
        taken = {name: values for name, values in parts.items() if values and values[0] is not None}
        recent = {name: torch.stack(values).detach().cpu() for name, values in taken.items()}
        if not self.earlier or not recent:
            return self.earlier or recent
        return {name: torch.cat([self.earlier[name], values]) for name, values in recent.items()}

    def gather(self) -> None:
        """Move `losses` into `earlier`: many small tensors between the large ones of the steps fragment the memory."""
        self.earlier, self.losses = self.loss_tensors(), []

    def as_tensors(self) -> dict[str, Tensor]:
        """All of it, for the report."""
        values: dict[str, Iterable[float]] = {
            "mask_update_step": self.update_steps,
            "density": self.densities,
            "mask_changes": self.changes,
        }
        if self.validation:
            values = {"validation_step": self.validation, "validation_distance": self.validation.values()} | values
        return self.loss_tensors() | {name: torch.tensor(list(numbers)) for name, numbers in values.items()}


@dataclass
class Progress:
    """A transfer between two steps: `step` steps are done.

    A step changes the student's parameters and optimiser in place; a mask update makes a new `Student` around them.
    """

    student: Student
    step: int = 0
    history: History = field(default_factory=History)

    def update(self, masks: Masks, *, density: float, apply: BoundModel) -> int:
        """Put the student under new masks, and return how many mask entries changed."""
        changes = count_changes(self.student.masks, masks)
        self.student = under_masks(self.student, masks, density=density, apply=apply)
        self.history.update_steps.append(self.step)
        self.history.densities.append(density)
        self.history.changes.append(changes)
        return changes

    def state(self, micro_batching: MicroBatching) -> State:
        """Everything that the next steps depend on."""
        student, history = self.student, self.history
        buffers = student.apply.buffers
        own = {} if buffers is student.apply.model.buffers else buffers
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
                "micro_batching": micro_batching.state(),
            },
        )


class MicroBatchingValues(Record):
    chunk: Annotated[int, Field(ge=1, lt=2**31)] | None
    lowered: bool


class TransferValues(Record):
    """The values in a transfer's state: all that is not tensors."""

    density: Density
    update_steps: list[Count]
    densities: list[Density]
    changes: list[Count]
    validation: list[tuple[Count, FiniteFloat]]
    micro_batching: MicroBatchingValues

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        validated = [step for step, _ in self.validation]
        if any(steps != sorted(set(steps)) for steps in (self.update_steps, validated)):
            raise ValueError("steps are not in order")
        if not len(self.update_steps) == len(self.densities) == len(self.changes):
            raise ValueError("mask updates are not all there")
        return self


def restore_progress(fresh: Progress, state: State, transfer: Transfer, micro_batching: MicroBatching) -> Progress:
    """The progress that `Progress.state` made this state of.

    The parameters and the optimiser of `fresh`, the same transfer before its first step, are overwritten.
    `micro_batching` gets the micro-batch of the interrupted run.

    Raises:
        ResumeError: if this transfer cannot have left such a state.
    """
    teacher, settings, student = transfer.teacher, transfer.settings, fresh.student
    values = state.values_as(TransferValues)
    if max([0, *values.update_steps, *(step for step, _ in values.validation)]) > state.step:
        raise state.refusal(f"knows of steps after step {state.step}")
    if state.step > settings.steps:
        raise state.refusal(f"is at step {state.step} of {settings.steps}")
    state.require_names("param", "mask", "buffer", "optimiser", "history")
    params = state.part_like("param", student.params)
    masks = state.part_like("mask", student.masks)
    own = state.part_like("buffer", teacher.buffers if state.part("buffer") else {})
    state.require_finite("param", params)
    if empty := [name for name, mask in masks.items() if not mask.any()]:
        raise state.refusal(f"keeps nothing of mask.{empty[0]}")
    earlier = state.part_like("history", _expected_history(state.step, settings, state.part("history")))
    with torch.no_grad():
        for name, p in student.params.items():
            p.copy_(params[name])
    restore_from(state, student.optimiser)
    device = next(iter(student.params.values())).device
    buffers = {name: value.to(device) for name, value in own.items()}
    micro_batching.restore(values.micro_batching.model_dump())
    apply = replace(student.apply, buffers=buffers) if buffers else student.apply
    history = History(
        earlier=earlier,
        update_steps=values.update_steps,
        densities=values.densities,
        changes=values.changes,
        validation=dict(values.validation),
    )
    return Progress(under_masks(student, masks, density=values.density, apply=apply), state.step, history)


def _expected_history(step: int, settings: TransferSettings, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names and shapes of `History.loss_tensors` after so many steps, in the precision of those found."""
    parts = [part.name for part in fields(TransferLoss)] if step else []
    if not settings.objective.kernel_weight:
        parts = [name for name in parts if name not in OF_KERNELS]
    if not settings.objective.hidden:
        parts = [name for name in parts if name != "hidden_distance"]
    floats = {name: value.dtype for name, value in found.items() if value.is_floating_point()}
    return {name: torch.empty(step, device="meta", dtype=floats.get(name, torch.float32)) for name in parts}

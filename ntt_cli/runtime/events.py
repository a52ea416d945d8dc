"""Events that a workflow reports while it works. Nothing here prints; `cli/` renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


class Event:
    """What a workflow reports."""


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know; the work goes on."""

    message: str


@dataclass(frozen=True)
class Noted(Event):
    """Something worth knowing about how the work is done."""

    message: str


@dataclass(frozen=True)
class TransferStarted(Event):
    """The transfer begins, or resumes after `done` steps; `layers` maps each prunable weight to its size."""

    steps: int
    layers: Mapping[str, int]
    done: int = 0


@dataclass(frozen=True)
class MasksUpdated(Event):
    """Masks were updated before `step`; `changes` of their entries changed."""

    step: int
    density: float
    changes: int
    layer_densities: Mapping[str, float]


@dataclass(frozen=True)
class StepsDone(Event):
    """`step` transfer steps are done; the distances are those of the last step, `None` if it measured none."""

    step: int
    kernel_distance: float | None
    logit_distance: float


@dataclass(frozen=True)
class Validated(Event):
    """The distance on validation samples before `step`; the transfer ends after `ends` steps, or goes on if `None`."""

    step: int
    distance: float
    ends: int | None


@dataclass(frozen=True)
class TrainingStarted(Event):
    """Supervised training begins, or resumes after `done` steps."""

    epochs: int
    steps_per_epoch: int
    done: int = 0


@dataclass(frozen=True)
class TrainingStepsDone(Event):
    """`step` training steps are done over all epochs."""

    step: int
    loss: float


@dataclass(frozen=True)
class EpochDone(Event):
    """One pass over the training samples is done; `value` is on the validation split, `None` without one."""

    epoch: int
    train_loss: float
    value: float | None
    metric: str = "accuracy"


@dataclass(frozen=True)
class Evaluated(Event):
    """`done` of `total` samples were evaluated."""

    done: int
    total: int


@dataclass(frozen=True)
class Compared(Event):
    """`done` of `total` comparisons of times were made."""

    done: int
    total: int


@dataclass(frozen=True)
class TrialsChanged(Event):
    """Of `total` trials, `done` ended with a result and `failed` without one; `running` names the running ones."""

    done: int
    failed: int
    total: int
    running: tuple[str, ...]


EventSink = Callable[[Event], None]

"""The progress of a fine-tuning run, and its state on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from pydantic import FiniteFloat, PositiveInt, model_validator
from torch import Tensor, nn

from ntt_cli.files.metadata import Record
from ntt_cli.files.state import State, prefixed
from ntt_cli.networks.batch_norm import is_statistic, running_statistics
from ntt_cli.networks.functional import saved_tensors
from ntt_cli.results import EpochSummary
from ntt_cli.runs.optimiser_state import restore_from
from ntt_cli.runtime.optimiser import optimiser_tensors


@dataclass(frozen=True)
class Best:
    """The best epoch so far, which will be written: its number, its accuracy, and the network after it."""

    epoch: int
    key: tuple[float, float]
    state: dict[str, Tensor]


@dataclass
class Training:
    """A fine-tuning run between two steps; all of it changes in place.

    Attributes:
        order: generator for the order of the samples, drawn once an epoch.
        step: steps done over all epochs.
        losses: of the current epoch's steps.
        epochs: the finished epochs.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    epochs: list[EpochSummary] = field(default_factory=list)
    best: Best | None = None

    def __post_init__(self) -> None:
        self._saved = frozenset(saved_tensors(self.module))

    def state_dict(self) -> dict[str, Tensor]:
        """The module's state dict, without entries that exist only after a forward pass."""
        return {name: value for name, value in saved_tensors(self.module).items() if name in self._saved}

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def state(self) -> State:
        """Everything that the remaining steps depend on."""
        values: dict[str, Any] = {"epochs": [epoch.model_dump(mode="json") for epoch in self.epochs], "best": None}
        tensors = (
            prefixed("param", dict(self.module.named_parameters()))
            | prefixed("buffer", {name: value.detach() for name, value in self.module.named_buffers()})
            | prefixed("optimiser", optimiser_tensors(self.optimiser))
        )
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        if self.best is not None:
            values["best"] = {"epoch": self.best.epoch, "key": self.best.key}
            tensors |= prefixed("best", self.best.state)
        return State(step=self.step, tensors=tensors, values=values)

    def restore(self, state: State, *, samples: int, steps: int, epochs: int) -> None:
        """Continue from `state`, which a training with the same settings saved; this one has not begun.

        The learning rate and the order of the samples follow from the number of steps and are computed again. The
        training learns from so many samples, in so many steps an epoch.

        Raises:
            ResumeError: if this training cannot have saved it.
        """
        values = state.values_as(TrainingValues)
        state.require_names("param", "buffer", "optimiser", "losses", "best")
        own: dict[str, dict[str, Tensor]] = {
            "param": dict(self.module.named_parameters()),
            "buffer": dict(self.module.named_buffers()),
        }
        saved = {
            "param": state.part_like("param", own["param"]),
            "buffer": state.part_like("buffer", self._as_saved(own["buffer"], state.part("buffer"))),
        }
        losses = state.tensors.get("losses", torch.empty(0))
        done = len(values.epochs)
        if losses.ndim != 1 or not losses.is_floating_point() or not losses.isfinite().all():
            raise state.refusal("holds losses that are no row of numbers")
        if done > epochs or len(losses) > steps or state.step != done * steps + len(losses):
            raise state.refusal(f"is at step {state.step}, after {done} epochs and {len(losses)} losses")
        best = state.part_like("best", self.state_dict() if values.best else {})
        learnt = {name for name, p in self.module.named_parameters() if p.requires_grad}
        for prefix, tensors in (saved | {"best": best}).items():  # other buffers may hold infinity by design
            checked = {name: value for name, value in tensors.items() if name in learnt or is_statistic(name)}
            state.require_finite(prefix, checked)
        with torch.no_grad():
            for prefix, tensors in saved.items():
                for name, value in tensors.items():
                    if value.shape != own[prefix][name].shape:
                        own[prefix][name].resize_(value.shape)
                    own[prefix][name].copy_(value)
        restore_from(state, self.optimiser)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning about steps without the optimiser
            for _ in range(state.step):
                self.schedule.step()
        for _ in range(done):
            torch.randperm(samples, generator=self.order)
        self.step, self.epochs = state.step, values.epochs
        self.losses = list(losses.to(self.device).unbind())
        if values.best is not None:
            tensors = {name: value.to(self.device) for name, value in best.items()}
            self.best = Best(values.best.epoch, values.best.key, tensors)

    def _as_saved(self, buffers: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers in the shapes that they had when they were saved: a pass may have given a cache another one."""
        fixed = set(running_statistics(self.module))
        return {
            name: saved[name] if name in saved and saved[name].dtype == own.dtype and name not in fixed else own
            for name, own in buffers.items()
        }


class BestValues(Record):
    epoch: PositiveInt
    key: tuple[FiniteFloat, FiniteFloat]


class TrainingValues(Record):
    epochs: list[EpochSummary]
    best: BestValues | None

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if [epoch.epoch for epoch in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ValueError("epochs are not in order")
        if (self.best is None) != (not self.epochs) or (self.best and self.best.epoch > len(self.epochs)):
            raise ValueError("the best epoch is none of these")
        return self

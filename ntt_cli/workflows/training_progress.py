"""How far a fine-tuning has come, and that as a state on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ntt_cli.core.optimiser import optimiser_tensors, restore_optimiser
from ntt_cli.errors import ResumeError
from ntt_cli.io.state import State, prefixed
from ntt_cli.workflows.reports import EpochSummary


@dataclass(frozen=True)
class Best:
    """The epoch to be written: its number, how good it is, and the network after it."""

    epoch: int
    key: tuple[float, float]
    state: dict[str, Tensor]


@dataclass
class Training:
    """A fine-tuning between two steps; all of it moves in place.

    Attributes:
        module: on its device.
        optimiser: of its parameters.
        schedule: of the optimiser's rate.
        order: draws the order of the samples, once an epoch.
        step: steps done over all epochs.
        epoch_order: state of `order` before the current epoch's draw.
        losses: of the current epoch's steps.
        epochs: that are done.
        best: of these.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    step: int = 0
    epoch_order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    losses: list[Tensor] = field(default_factory=list)
    epochs: list[EpochSummary] = field(default_factory=list)
    best: Best | None = None

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    def state(self) -> State:
        """Everything that the steps to come depend on."""
        values: dict[str, Any] = {
            "schedule": self.schedule.state_dict(),
            "rates": [group["lr"] for group in self.optimiser.param_groups],
            "epochs": [epoch.model_dump(mode="json") for epoch in self.epochs],
        }
        tensors = (
            prefixed("param", dict(self.module.named_parameters()))
            | prefixed("buffer", dict(self.module.named_buffers()))
            | prefixed("optimiser", optimiser_tensors(self.optimiser))
            | {"order": self.epoch_order}
        )
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        if self.best is not None:
            values["best"] = {"epoch": self.best.epoch, "key": self.best.key}
            tensors |= prefixed("best", self.best.state)
        return State(step=self.step, tensors=tensors, values=values)

    def restore(self, state: State) -> None:
        """Become the training whose `state` this is; it was made with the same settings, and has not begun.

        Raises:
            ResumeError: if the state is of another network.
        """
        own = prefixed("param", dict(self.module.named_parameters()))
        own |= prefixed("buffer", dict(self.module.named_buffers()))
        for name, value in own.items():
            if name not in state.tensors or state.tensors[name].shape != value.shape:
                raise ResumeError(
                    "the state to go on from",
                    f"is of another network: its {name} does not fit",
                    hint="go on with the same model, or start from the beginning with --force and without --resume",
                )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state.tensors[name])
        restore_optimiser(self.optimiser, state.part("optimiser"))
        self.schedule.load_state_dict(state.values["schedule"])
        for group, rate in zip(self.optimiser.param_groups, state.values["rates"], strict=True):
            group["lr"] = rate
        self.order.set_state(state.tensors["order"])
        self.step = state.step
        self.losses = list(state.tensors["losses"].to(self.device).unbind()) if "losses" in state.tensors else []
        self.epochs = [EpochSummary.model_validate(epoch) for epoch in state.values["epochs"]]
        if "best" in state.values:
            accuracy, loss = state.values["best"]["key"]
            best = {name: value.to(self.device) for name, value in state.part("best").items()}
            self.best = Best(state.values["best"]["epoch"], (accuracy, loss), best)

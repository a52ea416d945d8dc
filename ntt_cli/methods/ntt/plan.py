"""The course of a transfer: when masks are chosen, at which density, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ntt_cli.masks.schedule import density_at, has_flattened, mask_update_steps
from ntt_cli.methods.ntt.settings import AUTO_HORIZON, TransferSettings


@dataclass(frozen=True)
class TransferPlan:
    """The steps of a transfer, as far as they are known.

    Attributes:
        steps: after so many it ends; the most there can be while `open`.
        updates: the steps before which masks are chosen.
        settings: of the transfer.
        open: whether the end is still to be found, by looking at the validation distance.
    """

    steps: int
    updates: range
    settings: TransferSettings
    open: bool

    def density(self, step: int) -> float:
        """Of the masks chosen before a step."""
        horizon = AUTO_HORIZON if self.settings.auto else self.steps
        return density_at(
            self.settings.schedule, step, updates=self.updates, steps=horizon, density=self.settings.density
        )

    def is_validation_step(self, step: int) -> bool:
        """Whether the validation distance is wanted before a step: before masks change, once their density is final."""
        begun = AUTO_HORIZON // 2 + self.window if len(self.updates) > 1 else self.window
        return self.open and step >= begun and step % self.window == 0

    def after_validation(self, distances: Mapping[int, float]) -> TransferPlan:
        """The course after looks before these steps: where the distances have flattened, one more window follows."""
        if not self.open or not has_flattened(list(distances.values())):
            return self
        step = max(distances)
        last = self.updates if len(self.updates) == 1 else range(0, step + 1, self.window)
        return replace(self, steps=min(self.steps, step + self.window), updates=last, open=False)

    @property
    def window(self) -> int:
        """Steps between two mask updates."""
        return self.updates.step


def plan_transfer(settings: TransferSettings, *, learned: bool) -> TransferPlan:
    """The course before its first step.

    Args:
        settings: of the transfer.
        learned: masks are chosen along the way, not held.
    """
    updates = mask_update_steps(steps=settings.steps, every=settings.mask_update_every)
    if not learned:
        updates = range(0, 1, updates.step)
    return TransferPlan(settings.steps, updates, settings, open=settings.auto)

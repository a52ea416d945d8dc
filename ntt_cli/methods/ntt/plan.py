"""The plan of a transfer: when masks are updated, at which density, and when the transfer ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ntt_cli.masks.schedule import density_at, has_flattened, mask_update_steps
from ntt_cli.methods.ntt.settings import AUTO_HORIZON, TransferSettings


@dataclass(frozen=True)
class TransferPlan:
    """The steps of a transfer, as far as they are known.

    Attributes:
        steps: number of steps; while `open`, the largest number possible.
        updates: the steps before which masks are updated.
        settings: of the transfer.
        open: the last step is not known yet: the validation distance decides it.
    """

    steps: int
    updates: range
    settings: TransferSettings
    open: bool

    def density(self, step: int) -> float:
        """Of the masks that are chosen before a step."""
        horizon = AUTO_HORIZON if self.settings.auto else self.steps
        return density_at(
            self.settings.schedule, step, updates=self.updates, steps=horizon, density=self.settings.density
        )

    def is_validation_step(self, step: int) -> bool:
        """Whether the validation distance is measured before a step: at mask updates, once their density is final."""
        begun = AUTO_HORIZON // 2 + self.window if len(self.updates) > 1 else self.window
        return self.open and step >= begun and step % self.window == 0

    def after_validation(self, distances: Mapping[int, float]) -> TransferPlan:
        """The plan after validation at these steps: once the distances have flattened, one more window follows."""
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
    """The plan before the first step.

    Args:
        settings: of the transfer.
        learned: masks are updated during the transfer; otherwise they are fixed.
    """
    updates = mask_update_steps(steps=settings.steps, every=settings.mask_update_every)
    if not learned:
        updates = range(0, 1, updates.step)
    return TransferPlan(settings.steps, updates, settings, open=settings.auto)

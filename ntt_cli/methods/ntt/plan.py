"""The plan of a transfer: when masks are updated, at which density, at which rate it learns, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ntt_cli.masks.schedule import density_at, has_flattened, mask_update_steps
from ntt_cli.methods.ntt.settings import AUTO_HORIZON, TransferSettings


@dataclass(frozen=True)
class TransferPlan:
    """The steps of a transfer, as far as they are known.

    Attributes:
        steps: the number of steps; while `undecided`, the largest number possible.
        updates: the steps before which masks are updated.
        settings: of the transfer.
        undecided: with `--steps auto` the validation distance decides which step is the last.
    """

    steps: int
    updates: range
    settings: TransferSettings
    undecided: bool

    def density(self, step: int) -> float:
        """The density of the masks that are chosen before a step."""
        settings = self.settings
        steps = AUTO_HORIZON if settings.auto else self.steps
        return density_at(settings.schedule, step, updates=self.updates, steps=steps, density=settings.density)

    def rate(self, step: int) -> float:
        """The learning rate of a step over `settings.learning_rate`.

        With a trained teacher it falls to 0 in a straight line over the last window, in which masks no longer change
        (docs/notebook/32-falling-rate.md). Otherwise it is constant.
        """
        return min(1.0, (self.steps - step) / self.window) if self.settings.trained else 1.0

    def is_validation_step(self, step: int) -> bool:
        """Whether the validation distance is measured before a step.

        It is measured before each mask update, from one window after the density became final. The density falls over
        the first half of `AUTO_HORIZON`; fixed masks have their density from the first step.
        """
        first = AUTO_HORIZON // 2 + self.window if len(self.updates) > 1 else self.window
        return self.undecided and step >= first and step % self.window == 0

    def after_validation(self, distances: Mapping[int, float]) -> TransferPlan:
        """The plan after these validation distances, by step: once they no longer fall, one more window follows."""
        if not self.undecided or not has_flattened(list(distances.values())):
            return self
        step = max(distances)
        updates = self.updates if len(self.updates) == 1 else range(0, step + 1, self.window)
        return replace(self, steps=min(self.steps, step + self.window), updates=updates, undecided=False)

    @property
    def window(self) -> int:
        return self.updates.step


def plan_transfer(settings: TransferSettings, *, learned: bool) -> TransferPlan:
    """The plan before the first step. Masks that are not learned are put on before it, their only update."""
    updates = mask_update_steps(steps=settings.steps, every=settings.mask_update_every)
    if not learned:
        updates = range(0, 1, updates.step)
    return TransferPlan(settings.steps, updates, settings, undecided=settings.auto)

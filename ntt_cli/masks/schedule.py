"""How the density falls during the transfer, and when masks are chosen anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

PATIENCE = 3
IMPROVEMENT = 0.05
"""What the best of the last `PATIENCE` distances has to be below the best before them, for a fall to go on."""


def cubic_density(step: int, *, steps: int, density: float) -> float:
    """`d + (1 − d)(1 − t)³`, with `t` going from 0 to 1 over the first half of the steps.

    Zhu & Gupta 2017, arXiv 1710.01878.
    """
    t = min(1.0, step / max(1, steps // 2))
    return density + (1 - density) * (1 - t) ** 3


def constant_density(step: int, *, steps: int, density: float) -> float:
    """`d` from the first step, as in Liu & Zenke 2020."""
    return density


Fall = Callable[..., float]
"""`f(step, steps=…, density=…)`: the density at a step of so many, which ends at `density`."""

SCHEDULES: dict[str, Fall] = {"cubic": cubic_density, "constant": constant_density}


def mask_update_steps(*, steps: int, every: int) -> range:
    """The steps before which masks are chosen anew: 0 and each `every` steps, but not in the last such window.

    A run of fewer than ten windows gets ten shorter ones, so that the density falls in as many moves.
    """
    every = min(every, max(1, steps // 10))
    return range(0, max(1, steps - every), every)


def density_at(schedule: str | Fall, step: int, *, updates: range, steps: int, density: float) -> float:
    """The density of the masks chosen before a step: the schedule's at the next update; of the last, `density` exactly.

    That at the step itself would start with a dense student, which has nothing to learn: Adam would make whole steps of
    what rounding leaves of its gradient.
    """
    if step == updates[-1]:
        return density
    fall = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    return fall(step + updates.step, steps=steps, density=density)


def has_flattened(distances: Sequence[float]) -> bool:
    """Whether distances, measured in equal steps, have stopped falling: the last three are no 5% below all before."""
    if len(distances) <= PATIENCE:
        return False
    return min(distances[-PATIENCE:]) > (1 - IMPROVEMENT) * min(distances[:-PATIENCE])

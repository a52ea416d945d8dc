"""Schedules: how the density falls during the transfer, at which steps masks are updated, and when it may end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

PATIENCE = 3
IMPROVEMENT = 0.05
"""Distances still fall if the best of the last `PATIENCE` is at least this fraction below the best before these."""


def cubic_density(step: int, *, steps: int, density: float) -> float:
    """`d + (1 − d)(1 − t)³`, with `t` going from 0 to 1 over the first half of the steps.

    Zhu & Gupta 2017, arXiv 1710.01878.
    """
    t = min(1.0, step / max(1, steps // 2))
    return density + (1 - density) * (1 - t) ** 3


def constant_density(step: int, *, steps: int, density: float) -> float:
    """`d` from the first step, as in Liu & Zenke 2020."""
    return density


Schedule = Callable[..., float]
"""A schedule as a function: `f(step, steps=…, density=…)` gives the density at a step, and falls to `density`."""

SCHEDULES: dict[str, Schedule] = {"cubic": cubic_density, "constant": constant_density}


def mask_update_steps(*, steps: int, every: int) -> range:
    """The steps before which masks are updated: every `every` steps from 0, but not in the last such window.

    A transfer shorter than `10 · every` steps gets ten shorter windows, so that its density falls in small steps too.
    """
    every = min(every, max(1, steps // 10))
    return range(0, max(1, steps - every), every)


def density_at(schedule: str | Schedule, step: int, *, updates: range, steps: int, density: float) -> float:
    """The density of the masks chosen before a step: the schedule's at the next update; `density` at the last update.

    The schedule's density at the step itself would be 1 at step 0. A dense student equals its teacher, so its gradient
    is rounding, which Adam would scale up to whole steps.
    """
    if step == updates[-1]:
        return density
    function = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    return function(step + updates.step, steps=steps, density=density)


def has_flattened(distances: Sequence[float]) -> bool:
    """Whether distances at equal intervals no longer fall: none of the last 3 is 5% below the best before them."""
    if len(distances) <= PATIENCE:
        return False
    return min(distances[-PATIENCE:]) > (1 - IMPROVEMENT) * min(distances[:-PATIENCE])

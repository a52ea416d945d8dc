"""Times of two networks in pairs, and what they say: which is faster, and how sure that is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Passes = Callable[[int], None]
"""Runs this many forward passes, and returns when the last one is done."""

Clock = Callable[[], float]
Verdict = Literal["faster", "not faster", "slower"]

WARM = 3
"""Passes before anything is timed: the first ones allocate memory and choose algorithms."""

SHORTEST = 0.005
"""The shortest time to take, in seconds. Networks that are done sooner run several times in it."""

LEAST = 6
"""The fewest pairs: of fewer values, no two are an interval for the median with 95% confidence."""

ONE_IN = 20
"""An interval misses the median in at most one of so many cases: 95% confidence."""

MARGIN = 1.05
"""A ratio nearer to 1 is neither faster nor slower: two copies of a network differ by where they lie in memory."""


@dataclass(frozen=True)
class Interval:
    """A median, and the interval in which that of more values lies, with 95% confidence."""

    low: float
    median: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What an interval of ratios, dense over other, says: the whole interval must lie beyond the margin."""
        if self.low > MARGIN:
            return "faster"
        return "slower" if self.high < 1 / MARGIN else "not faster"


@dataclass(frozen=True)
class PairedTimes:
    """Seconds of a pass through the dense and the other network, one of each a pair; the mean of `passes` passes."""

    dense: list[float]
    other: list[float]
    passes: int

    @property
    def ratio(self) -> Interval:
        """By how many times the other network is faster."""
        return interval_of([first / second for first, second in zip(self.dense, self.other, strict=True)])


def measure_pairs(dense: Passes, other: Passes, *, seconds: float, clock: Clock = time.perf_counter) -> PairedTimes:
    """Take times in turns for about so many seconds: dense, other, other, dense, and so on.

    What slows the machine down for longer than a pair slows both of it. The changing order cancels what the first of
    two leaves behind for the second, such as a warm cache.
    """
    for run in (dense, other):
        run(WARM)
    once = min(_timed(run, 1, clock) for run in (dense, other))
    passes = max(1, math.ceil(SHORTEST / max(once, 1e-9)))
    begun, found = clock(), PairedTimes([], [], passes)
    while len(found.dense) < LEAST or clock() - begun < seconds:
        turns = [(dense, found.dense), (other, found.other)]
        for run, times in turns if len(found.dense) % 2 == 0 else reversed(turns):
            times.append(_timed(run, passes, clock) / passes)
    return found


def _timed(run: Passes, passes: int, clock: Clock) -> float:
    begun = clock()
    run(passes)
    return clock() - begun


def interval_of(values: Sequence[float]) -> Interval:
    """The median of at least `LEAST` values, and the narrowest pair of them that encloses that of their population.

    Of `n` independent values, `k` lie below the median of their distribution with probability `C(n, k) / 2^n`. So the
    `k`-th lowest and the `k`-th highest miss it with twice the probability of fewer than `k`. Nothing is assumed about
    the distribution (the interval of the sign test).

    Raises:
        ValueError: if there are fewer values.
    """
    ordered, n = sorted(values), len(values)
    missed, term, k = 0, 1, 0  # sums of C(n, 0), C(n, 1) and so on, as whole numbers
    all_cases = 2**n
    while k < n // 2 and 2 * (missed + term) * ONE_IN <= all_cases:
        missed, term, k = missed + term, term * (n - k) // (k + 1), k + 1
    if k == 0:
        raise ValueError(f"{n} values, {LEAST} are needed")
    return Interval(ordered[k - 1], statistics.median(ordered), ordered[-k])

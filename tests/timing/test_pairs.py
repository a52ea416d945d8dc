from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from ntt_cli.timing.pairs import LEAST, Interval, Passes, interval_of, measure_pairs


class FakeClock:
    """A clock that only passes move, by the seconds that each is said to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float) -> Passes:
        """A network whose passes take these times, the last one from then on."""
        left = list(seconds)

        def run(passes: int) -> None:
            self.order.append((name, passes))
            for _ in range(passes):
                self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.mark.parametrize("n", [6, 7, 8, 9, 20, 100])
def test_an_interval_is_the_narrowest_that_covers_the_median(n: int) -> None:
    """By the binomial probabilities in floating point: of `n` values, fewer than `k` lie below their median."""
    found = interval_of([float(i) for i in range(1, n + 1)])
    k = int(found.low)
    missed = [2 * sum(math.comb(n, i) for i in range(k)) / 2**n for k in (k, k + 1)]
    assert missed[0] <= 0.05 < missed[1]
    assert found == Interval(k, (n + 1) / 2, n + 1 - k)


def test_how_often_an_interval_covers_the_median() -> None:
    chance = random.Random(0)
    rounds = 2000
    covered = 0
    for _ in range(rounds):
        found = interval_of([chance.expovariate(1.0) for _ in range(15)])
        covered += found.low <= math.log(2) <= found.high
    assert 0.95 <= covered / rounds <= 0.98  # 4 of 15: 0.9648


def test_order_and_size_of_the_values_do_not_matter() -> None:
    values = [2.0, 1.0, 8.0, 4.0, 16.0, 32.0]
    assert interval_of(values) == Interval(1.0, 6.0, 32.0)
    assert interval_of([1.0] * 5000) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="5 values, 6 are needed"):
        interval_of(values[:5])


@pytest.mark.parametrize(
    ("low", "median", "high", "verdict"),
    [
        (1.5, 1.6, 1.7, "faster"),
        (1.051, 1.06, 1.07, "faster"),
        (1.05, 1.6, 9.0, "not faster"),  # the spread decides, not the middle
        (0.99, 1.0, 1.01, "not faster"),
        (1.01, 1.02, 1.03, "not faster"),
        (0.5, 0.9, 1.5, "not faster"),
        (0.5, 0.6, 0.95, "slower"),
        (0.5, 0.6, 0.96, "not faster"),
    ],
)
def test_verdicts(low: float, median: float, high: float, verdict: str) -> None:
    assert Interval(low, median, high).verdict == verdict


def test_both_take_turns_and_each_pair_has_a_ratio() -> None:
    clock = FakeClock()
    found = measure_pairs(clock.taking("dense", 4.0), clock.taking("other", 2.0), seconds=60, clock=clock)
    warm, measured = clock.order[:4], [name for name, _ in clock.order[4:]]
    assert warm == [("dense", 3), ("other", 3), ("dense", 1), ("other", 1)]
    assert found.passes == 1
    assert len(found.dense) == len(found.other) == 10  # pairs of 6 seconds in 60
    pairs = list(zip(measured[::2], measured[1::2], strict=True))
    assert pairs == [("dense", "other"), ("other", "dense")] * 5
    assert found.ratio == Interval(2.0, 2.0, 2.0)
    assert found.ratio.verdict == "faster"


def test_a_machine_that_slows_down_slows_both() -> None:
    clock = FakeClock()
    slower = [1.0] * 10 + [7.0]  # from some pass on
    found = measure_pairs(clock.taking("dense", *slower), clock.taking("other", *slower), seconds=100, clock=clock)
    assert {*found.dense} == {1.0, 7.0}
    assert found.ratio == Interval(1.0, 1.0, 1.0)


def test_short_passes_are_repeated_until_a_clock_can_tell_them() -> None:
    clock = FakeClock()
    found = measure_pairs(clock.taking("dense", 0.002), clock.taking("other", 0.0012), seconds=0.1, clock=clock)
    assert found.passes == 5  # of the shorter one: 0.0012 s each, for 0.005 s
    assert {passes for _, passes in clock.order[4:]} == {5}
    assert statistics.mean(found.dense) == pytest.approx(0.002)
    assert statistics.mean(found.other) == pytest.approx(0.0012)


def test_six_pairs_are_taken_however_long_that_is() -> None:
    clock = FakeClock()
    found = measure_pairs(clock.taking("dense", 100.0), clock.taking("other", 100.0), seconds=1, clock=clock)
    assert len(found.dense) == LEAST == 6


def test_a_clock_that_stands_still_ends() -> None:
    ticks = itertools.count()
    found = measure_pairs(lambda _: None, lambda _: None, seconds=1, clock=lambda: float(next(ticks) // 50))
    assert found.passes >= 1

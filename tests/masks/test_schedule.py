from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_cli.masks.schedule import constant_density, cubic_density, density_at, has_flattened, mask_update_steps


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (10, 0.1 + 0.9 * 27 / 64), (20, 0.1 + 0.9 / 8), (30, 0.1 + 0.9 / 64), (40, 0.1), (41, 0.1), (79, 0.1)],
)
def test_cubic_by_hand(step: int, expected: float) -> None:
    """Of 80 steps the first 40 are `t` from 0 to 1."""
    assert cubic_density(step, steps=80, density=0.1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "steps", "expected"), [(1, 1, 0.1), (1, 2, 0.1), (1, 3, 0.1), (1, 5, 0.1 + 0.9 / 8)])
def test_cubic_of_few_steps(step: int, steps: int, expected: float) -> None:
    """An odd number of steps has a shorter first half."""
    assert cubic_density(step, steps=steps, density=0.1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("step", [0, 1, 79])
def test_constant(step: int) -> None:
    assert constant_density(step, steps=80, density=0.1) == 0.1


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (3000, 100, list(range(0, 2900, 100))),  # the last is 2800: 2900 begins the last window
        (3001, 100, list(range(0, 2901, 100))),
        (100, 100, list(range(0, 90, 10))),  # ten shorter windows
        (25, 7, list(range(0, 23, 2))),
        (5, 100, [0, 1, 2, 3]),
        (2, 100, [0]),
        (1, 1, [0]),
    ],
)
def test_mask_updates_by_hand(steps: int, every: int, expected: list[int]) -> None:
    assert list(mask_update_steps(steps=steps, every=every)) == expected


@settings(deadline=None)
@given(steps=st.integers(1, 5000), every=st.integers(1, 500))
def test_mask_updates_begin_at_once_and_leave_the_last_window_alone(steps: int, every: int) -> None:
    updates = mask_update_steps(steps=steps, every=every)
    assert updates[0] == 0
    assert updates[-1] < steps
    assert updates.step <= every
    if len(updates) > 1:
        assert steps - updates[-1] > updates.step
    if steps >= 10 * every:
        assert updates.step == every


@pytest.mark.parametrize("schedule", ["cubic", "constant"])
@settings(deadline=None)
@given(steps=st.integers(1, 300), every=st.integers(1, 50), density=st.floats(0, 1, exclude_min=True))
def test_density_never_rises_and_ends_exactly_where_asked(
    schedule: str, steps: int, every: int, density: float
) -> None:
    updates = mask_update_steps(steps=steps, every=every)
    densities = [density_at(schedule, step, updates=updates, steps=steps, density=density) for step in updates]
    assert densities[-1] == density
    assert all(later <= earlier for earlier, later in zip(densities, densities[1:], strict=False))
    if len(updates) > 1:
        # A first window at density 1 would be steps of nothing.
        assert densities[0] < 1 or density > 0.999  # so near to 1 that it rounds


@pytest.mark.parametrize(("step", "expected"), [(0, 0.9**3), (10, 0.8**3), (40, 0.5**3), (180, 0.0)])
def test_density_by_hand(step: int, expected: float) -> None:
    """Of 200 steps the density falls over 100: masks chosen before a step have that of the next update, 10 later."""
    updates = mask_update_steps(steps=200, every=10)
    found = density_at("cubic", step, updates=updates, steps=200, density=0.1)
    assert found == pytest.approx(0.1 + 0.9 * expected, rel=1e-12)
    assert density_at("constant", step, updates=updates, steps=200, density=0.1) == 0.1


def test_a_schedule_of_one_s_own() -> None:
    def linear(step: int, *, steps: int, density: float) -> float:
        return 1 - (1 - density) * step / steps

    assert density_at(linear, 20, updates=range(0, 50, 10), steps=60, density=0.4) == 0.7


def test_the_last_masks_are_of_the_density_itself() -> None:
    """A run of two updates is still on its way at the last of them."""
    assert density_at("cubic", 1, updates=range(0, 2), steps=100, density=0.1) == 0.1


@pytest.mark.parametrize(
    ("distances", "flat"),
    [
        ([], False),
        ([1.0, 1.0, 1.0], False),  # nothing before them to compare with
        ([1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 0.99, 0.97, 0.96], True),  # 4% below
        ([1.0, 0.99, 0.97, 0.94], False),  # 6% below
        ([1.0, 0.95, 0.96, 0.97], False),  # exactly 5%
        ([1.0, 0.94, 1.1, 1.2], False),  # the best of the three counts
        ([0.5, 0.9, 0.6, 0.55, 0.52], True),  # and the best of all before
        ([1.0, 0.5, 0.49, 0.48, 0.52], True),
    ],
)
def test_flat_by_hand(distances: list[float], flat: bool) -> None:
    assert has_flattened(distances) is flat

from __future__ import annotations

import random
import traceback
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ntt_cli.runtime.seeding import global_draws_apart, global_state, seed_as_users_do, seed_global_draws, seeded

PLACES = [(0, 0), (0, 1), (2**32, 0), (2**63 - 1, 5), (0, 1, 1), (0,)]


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_they_are_those_of_their_place_and_left_as_they_were() -> None:
    before, seen = global_state(), []
    with global_draws_apart():
        for place in PLACES:
            seed_global_draws(*place)
            assert torch.equal(torch.rand(3), torch.rand(3, generator=seeded(*place)))
            seed_global_draws(*place)
            seen += drawn()
            seed_global_draws(*place)
            assert drawn() == tuple(seen[-3:])
    assert len(set(seen)) == 3 * len(PLACES)
    assert global_state() == before


def test_they_are_left_as_they_were_by_what_fails() -> None:
    def work() -> None:
        with global_draws_apart():
            drawn()
            raise ZeroDivisionError

    before = global_state()
    with pytest.raises(ZeroDivisionError):
        work()
    assert global_state() == before


def test_a_seed_is_that_which_users_would_set() -> None:
    with global_draws_apart():
        seed_as_users_do(7)
        ours = drawn()
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        assert drawn() == ours


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), np.random.rand, random.random])
def test_the_state_shows_any_draw(draw: Callable[[], object]) -> None:
    with global_draws_apart():
        before = global_state()
        assert global_state() == before
        draw()
        assert global_state() != before


def test_seeding_for_an_item_writes_no_stack_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` does, for a GPU that may be used later: most of the time of reading random items."""

    def fails() -> list[str]:
        raise AssertionError

    monkeypatch.setattr(traceback, "format_stack", fails)
    with global_draws_apart():
        seed_global_draws(3, 1, 4)


def test_seeds_and_places_do_not_run_into_each_other() -> None:
    places = [*PLACES, (1, 0), (1, 1), (0, 1, 0), (0, 0, 1)]
    numbers = {float(torch.rand((), generator=seeded(*place), dtype=torch.float64)) for place in places}
    assert len(numbers) == len(places)

"""Draws that depend on where they are."""

from __future__ import annotations

import torch

from ntt_cli.workflows.runs.generators import global_draws_apart, seed_global_draws, seeded

PLACES = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0,)]


def test_seeds_and_places_do_not_run_into_each_other() -> None:
    drawn = {float(torch.rand((), generator=seeded(*place), dtype=torch.float64)) for place in PLACES}
    assert len(drawn) == len(PLACES)


def test_global_draws_are_those_of_their_place() -> None:
    before = torch.get_rng_state()
    with global_draws_apart(torch.device("cpu")):
        for place in PLACES:
            seed_global_draws(*place)
            assert torch.equal(torch.rand(3), torch.rand(3, generator=seeded(*place)))
    assert torch.equal(torch.get_rng_state(), before)

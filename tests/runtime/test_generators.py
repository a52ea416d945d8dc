"""Draws that depend on where they are."""

from __future__ import annotations

import torch

from ntt_cli.runtime.generators import seeded

PLACES = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0,)]


def test_seeds_and_places_do_not_run_into_each_other() -> None:
    drawn = {float(torch.rand((), generator=seeded(*place), dtype=torch.float64)) for place in PLACES}
    assert len(drawn) == len(PLACES)

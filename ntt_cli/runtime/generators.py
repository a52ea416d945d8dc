"""Draws that depend on a run's seed and on where it is, so that no generator has a state to save."""

from __future__ import annotations

import torch

from ntt_cli.runtime.seeding import mixed


def seeded(seed: int, *where: int) -> torch.Generator:
    """A generator for some draws that are independent of those elsewhere."""
    return torch.Generator().manual_seed(mixed(seed, where))

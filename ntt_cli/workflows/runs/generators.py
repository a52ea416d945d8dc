"""Draws that depend on a run's seed and on where it is, so that no generator has a state to save."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import numpy as np
import torch


def seeded(seed: int, *where: int) -> torch.Generator:
    """A generator for some draws that are independent of those elsewhere."""
    return torch.Generator().manual_seed(_mixed(seed, where))


def seed_global_draws(seed: int, *where: int) -> None:
    """Make what draws from torch's own generators, as Dropout and a user's augmentation do, draw as it does there."""
    torch.manual_seed(_mixed(seed, where))


@contextlib.contextmanager
def global_draws_apart(device: torch.device) -> Generator[None]:
    """Leave torch's own generators as they were.

    Yields:
        nothing.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _mixed(seed: int, where: tuple[int, ...]) -> int:
    """NumPy mixes them: torch's generator would use 32 bits of their sum."""
    (mixed,) = np.random.SeedSequence(seed, spawn_key=where).generate_state(1)
    return int(mixed)

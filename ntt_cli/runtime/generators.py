"""Random draws that depend only on a run's seed and on the place in the run, so that no generator state is saved."""

from __future__ import annotations

import torch

from ntt_cli.runtime.seeding import mixed


def seeded(seed: int, *where: int) -> torch.Generator:
    """A generator for the draws at one place in a run, independent of those at other places."""
    return torch.Generator().manual_seed(mixed(seed, where))

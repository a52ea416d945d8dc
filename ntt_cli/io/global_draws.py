"""The generators that code of others draws from: torch's, NumPy's and Python's own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_global_draws(seed: int, *where: int) -> None:
    """Make what draws from them, as Dropout and a user's augmentation do, draw as it does there."""
    seed_as_users_do(mixed(seed, where))


def seed_as_users_do(seed: int) -> None:
    """Seed all of them with this number itself."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def global_state() -> tuple[object, ...]:
    """Where they are; it differs once one was drawn from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest, random.getstate()


@contextlib.contextmanager
def global_draws_apart(device: torch.device = CPU) -> Generator[None]:
    """Leave them as they were, those of the CPU and of this device.

    Yields:
        nothing.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def mixed(seed: int, where: tuple[int, ...]) -> int:
    """NumPy mixes them: torch's generator would use 32 bits of their sum."""
    (number,) = np.random.SeedSequence(seed, spawn_key=where).generate_state(1)
    return int(number)

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
    number = mixed(seed, where)
    # Of torch's only those that are there: `torch.manual_seed` also writes down, with the whole stack, what to tell a
    # GPU that may be used some day, which is most of the time of reading random items.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)
    _seed_others(number)


def seed_as_users_do(seed: int) -> None:
    """Seed all of them with this number itself."""
    torch.manual_seed(seed)
    _seed_others(seed)


def _seed_others(seed: int) -> None:
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

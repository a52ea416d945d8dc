"""Random draws by seed: ntt's own, and the global ones of torch, NumPy and Python that other people's code uses."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_global_draws(seed: int, *where: int) -> None:
    """Seed the global generators for one place in a run; Dropout and a user's augmentation draw from them."""
    number = mixed(seed, where)
    # Only torch generators that exist. `torch.manual_seed` also records the call, with its whole stack, for GPUs that
    # may be used later. That would take most of the time of reading random items.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)
    _seed_others(number)


def seed_as_users_do(seed: int) -> None:
    """Seed all global generators with this number itself."""
    torch.manual_seed(seed)
    _seed_others(seed)


def _seed_others(seed: int) -> None:
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seeded(seed: int, *where: int) -> torch.Generator:
    """A generator for the draws at one place in a run. No state of a generator needs to be saved."""
    return torch.Generator().manual_seed(mixed(seed, where))


def global_state() -> tuple[object, ...]:
    """The state of the global generators; it differs once a number was drawn."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest, random.getstate()


@contextlib.contextmanager
def global_draws_apart(device: torch.device = CPU) -> Generator[None]:
    """Restore the global generators afterwards, those of the CPU and of this device."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def mixed(seed: int, where: tuple[int, ...]) -> int:
    """One seed from `seed` and `where`. NumPy mixes them; torch's generator would use 32 bits of their sum."""
    (number,) = np.random.SeedSequence(seed, spawn_key=where).generate_state(1)
    return int(number)

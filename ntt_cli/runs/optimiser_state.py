"""Restore the state of an optimiser from a file that anyone may have edited."""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_cli.files.state import State
from ntt_cli.runtime.optimiser import expected_tensors, restore_optimiser


def restore_from(state: State, optimiser: torch.optim.Optimizer) -> None:
    """Restore the optimiser's state.

    Raises:
        ResumeError: if this optimiser cannot have this state after this number of steps.
    """
    numbers = {name.partition(".")[0] for name in state.part("optimiser")}
    indices = sorted(int(number) for number in numbers if number.isdecimal() and len(number) < 10)
    memory = state.part_like("optimiser", expected_tensors(optimiser, indices))
    for name, value in memory.items():
        if not _can_be(name.partition(".")[2], value, state.step):
            raise state.refusal(f"holds values in optimiser.{name} that cannot be after {state.step} steps")
    restore_optimiser(optimiser, memory)


def _can_be(name: str, value: Tensor, steps: int) -> bool:
    if name == "step":
        return 1 <= float(value) <= steps and float(value).is_integer()
    # Squares may be infinite for a while, which makes the step 0.
    return not bool(value.isnan().any() or (name == "exp_avg_sq" and (value < 0).any()))

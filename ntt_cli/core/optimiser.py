"""An optimiser's step, and its state as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def advance(optimiser: torch.optim.Optimizer) -> None:
    """Take a step.

    Raises:
        FloatingPointError: if the rate is beyond the range of the numbers.
        RuntimeError: if torch fails in another way.
    """
    try:
        optimiser.step()
    except RuntimeError as error:
        if "overflow" not in str(error):  # torch's words for a factor that its fused kernels cannot hold
            raise
        raise FloatingPointError("the learning rate is beyond the range of the numbers") from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`INDEX.NAME`: what the optimiser remembers of each parameter, such as Adam's moments; not copied."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, memory in state.items()
        for name, value in memory.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Let it remember what another one of the same parameters did, as `optimiser_tensors` told; in place."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})

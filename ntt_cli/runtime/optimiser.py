"""An optimiser's step, and its state as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def advance(optimiser: torch.optim.Optimizer) -> None:
    """Take a step; a learning rate beyond the range of the numbers is a `FloatingPointError`."""
    try:
        optimiser.step()
    except RuntimeError as error:
        if "overflow" not in str(error):  # torch says so if a factor does not fit into the type of its fused kernels
            raise
        raise FloatingPointError("the learning rate is beyond the range of the numbers") from error


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Let all parameters learn at this rate from the next step on."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state of each parameter, such as Adam's moments, as `INDEX.NAME`; not copied."""
    return {
        f"{index}.{name}": value
        for index, memory in optimiser.state_dict()["state"].items()
        for name, value in memory.items()
        if isinstance(value, Tensor)
    }


def expected_tensors(optimiser: torch.optim.Optimizer, indices: Iterable[int]) -> dict[str, Tensor]:
    """The tensors that `optimiser_tensors` returns after a step that moved these parameters, on the meta device."""
    own = [p for group in optimiser.param_groups for p in group["params"]]
    names = ("momentum_buffer",) if isinstance(optimiser, torch.optim.SGD) else ("exp_avg", "exp_avg_sq")
    expected = {f"{i}.{name}": own[i].detach().to("meta") for i in indices if i < len(own) for name in names}
    if "momentum_buffer" not in names:
        expected |= {f"{i}.step": torch.empty((), device="meta", dtype=torch.float32) for i in indices if i < len(own)}
    return expected


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state of another one with the same parameters, from `optimiser_tensors`; in place.

    The caller has checked the tensors against `expected_tensors`: an optimiser's step checks no shapes, and reads each
    state tensor in the memory layout of its parameter.
    """
    own = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        p = own[int(index)]
        laid_out = torch.empty_like(p).copy_(value) if value.ndim and value.shape == p.shape else value.clone()
        state.setdefault(int(index), {})[name] = laid_out
    if isinstance(optimiser, torch.optim.SGD) and state:
        # SGD's fused kernels need the momenta of all parameters or of none. A parameter without one starts at 0.
        state = {i: state.get(i, {"momentum_buffer": torch.zeros_like(p)}) for i, p in enumerate(own)}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})

"""An optimiser's step, and its state as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def expected_tensors(optimiser: torch.optim.Optimizer, indices: Iterable[int]) -> dict[str, Tensor]:
    """What `optimiser_tensors` gives after a step that moved these parameters, without values."""
    own = [p for group in optimiser.param_groups for p in group["params"]]
    names = ("momentum_buffer",) if isinstance(optimiser, torch.optim.SGD) else ("exp_avg", "exp_avg_sq")
    expected = {f"{i}.{name}": own[i].detach().to("meta") for i in indices if i < len(own) for name in names}
    if "momentum_buffer" not in names:
        expected |= {f"{i}.step": torch.empty((), device="meta", dtype=torch.float32) for i in indices if i < len(own)}
    return expected


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Let it remember what another one of the same parameters did, as `optimiser_tensors` told; in place.

    The tensors are those that `expected_tensors` names: an optimiser's step looks at no shapes, and goes through all of
    a parameter's tensors as that parameter's memory lies.
    """
    own = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        p = own[int(index)]
        laid_out = torch.empty_like(p).copy_(value) if value.ndim and value.shape == p.shape else value.clone()
        state.setdefault(int(index), {})[name] = laid_out
    if isinstance(optimiser, torch.optim.SGD) and state:
        # Its fused kernels take either every momentum or none; 0 is what a parameter without one begins with.
        state = {i: state.get(i, {"momentum_buffer": torch.zeros_like(p)}) for i, p in enumerate(own)}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})

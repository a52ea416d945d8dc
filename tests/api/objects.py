"""What tests hand to the Python functions, and how they see that nothing of the caller's was changed."""

from __future__ import annotations

import copy
import logging
import random
import signal
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt

IN_FLAGS = "--"
"""What no word for a caller of the functions may contain."""


def network(seed: int = 0) -> nn.Sequential:
    """Linear layers, batch norm in evaluation mode, dropout in training mode, a frozen bias and a hook."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    made[1].eval()
    made[4].bias.requires_grad_(False)
    made[2].register_forward_hook(_nothing)
    return made


def _nothing(_module: nn.Module, _arguments: object, _output: object) -> None:
    return None


def samples(n: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % 3


def state_of(module: nn.Module) -> dict[str, Any]:
    """Whatever a caller may look at."""
    return {
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "objects": [id(value) for value in (*module.parameters(), *module.buffers())],
        "modes": [part.training for part in module.modules()],
        "needed": [p.requires_grad for p in module.parameters()],
        "gradients": [p.grad is None for p in module.parameters()],
        "devices": [value.device for value in module.state_dict().values()],
        "hooks": [
            (list(part._forward_hooks), list(part._forward_pre_hooks), list(part._backward_hooks))
            for part in module.modules()
        ],
        "attributes": [sorted(vars(part)) for part in module.modules()],
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    rest = [{name: value for name, value in state.items() if name != "values"} for state in (a, b)]
    return rest[0] == rest[1] and equal(a["values"], b["values"])


def equal(a: Any, b: Any) -> bool:
    """The same tensors by name, to the byte."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def surroundings() -> dict[str, object]:
    """What is global to the process."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "filters": list(warnings.filters),
        "loggers": [(logging.root.level, list(logging.root.handlers)), logging.getLogger("ntt_cli").level],
    }


@contextmanager
def left_alone(*modules: nn.Module) -> Generator[None]:
    """Neither these networks nor anything global is changed within."""
    before, around = [copy.deepcopy(state_of(module)) for module in modules], surroundings()
    try:
        yield
    finally:
        assert surroundings() == around
        assert all(same(state, state_of(module)) for state, module in zip(before, modules, strict=True))


def refusal(error: type[ntt.NttError], work: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """What the error says, hint and all; nobody is told to type an option of the command line."""
    with pytest.raises(error) as caught:
        work(*arguments, **options)
    assert caught.value.hint
    said = f"{caught.value} | {caught.value.hint}"
    assert IN_FLAGS not in said
    assert f"hint: {caught.value.hint}" in caught.value.__notes__
    return said

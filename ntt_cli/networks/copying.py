"""Copy networks, also those with attributes that cannot be copied: a lock, an open file, a generator, a module."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from traceback import walk_tb
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.utils._pytree import tree_leaves


class UncopyableError(Exception):
    """An attribute of a network cannot be copied, and the copy cannot share it."""

    def __init__(self, attribute: str, reason: str) -> None:
        super().__init__(f"{attribute} cannot be copied: {reason}")
        self.attribute, self.reason = attribute, reason


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy; it shares with `module` the attributes that cannot be copied and hold no weights.

    Of attributes that a computation made, such as the weight of `torch.nn.utils.weight_norm` or the features of the
    last pass, it has the values. `results_of` still finds them in the copy.

    Raises:
        UncopyableError: if a tensor or a module cannot be copied; it names the attribute and the reason.
    """
    shared: dict[int, Any] = {id(value): _copy_of_result(value) for _, value in results_of(module)}
    shared |= {id(b): _lazy_like(b) for b in module.buffers() if is_lazy(b)}  # torch copies lazy parameters alone
    while True:
        try:
            return copy.deepcopy(module, dict(shared))
        except Exception as error:
            culprit = _innermost(error.__traceback__)
            if culprit is None or isinstance(culprit, Tensor | nn.Module) or id(culprit) in shared:
                raise UncopyableError(_place_of(module, culprit), f"{type(error).__name__}: {error}") from error
            alike = (v for part in module.modules() for v in vars(part).values() if type(v) is type(culprit))
            shared |= {id(value): value for value in (culprit, *alike)}


def results_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The attributes of its layers that a computation made, with their names."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            for leaf in tree_leaves(value) if isinstance(value, list | tuple | dict) else [value]:
                if isinstance(leaf, Tensor) and not leaf.is_leaf:
                    yield f"{prefix}.{name}".lstrip("."), leaf


def _copy_of_result(value: Tensor) -> Tensor:
    # The clone is still a result, and its graph ends here.
    return value.detach().requires_grad_().clone()


def _lazy_like(value: Tensor) -> Tensor:
    made: Tensor = UninitializedBuffer(device=value.device, dtype=value.dtype)  # type: ignore[call-arg]  # torch's stub has no arguments
    return made


def _innermost(trace: TracebackType | None) -> Any:
    """The object that `copy.deepcopy` was copying when it failed."""
    found = None
    for frame, _ in walk_tb(trace):
        if frame.f_code is copy.deepcopy.__code__:
            found = frame.f_locals["x"]
    return found


def _place_of(module: nn.Module, value: Any) -> str:
    """The attribute that is this value, or holds it in a container."""
    for prefix, part in module.named_modules():
        if part is value:
            return prefix or "the network"
        for name, own in vars(part).items():
            inside = own.values() if isinstance(own, dict) else own if isinstance(own, list | tuple) else ()
            if own is value or any(one is value for one in inside):
                return f"{prefix}.{name}".lstrip(".")
    return f"a {type(value).__name__} in the network"

"""Half-precision networks compute in float32, and networks of float64 in float64. Files keep the types of the network.

Half precision has too few digits for small steps and for kernels. Every half-precision number is a float32 number, so
that nothing is lost before the result is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ntt_cli.errors import DivergedError, listed

Dtypes = Mapping[str, torch.dtype]

HALF = frozenset({torch.float16, torch.bfloat16})


def prepare_precision(module: nn.Module) -> dict[str, torch.dtype]:
    """Give the network, in place, the types that it computes in; return the types that it had, where they changed.

    Parameters and buffers of half precision become float32, and casts to half precision in its forward pass do nothing.
    A network whose parameters are all float64 casts its inputs to float64, nested ones too.
    """
    values = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    own = {name: value.dtype for name, value in values.items() if value.dtype in HALF}
    if own:
        # `module._apply` would make two of a buffer with two names.
        buffers = {id(value): value.float() for value in module.buffers() if value.dtype in HALF}
        module._apply(lambda value: buffers.get(id(value), value.float()) if value.dtype in HALF else value)
        _become(module, _ComputesInFloat32)
    elif {p.dtype for p in module.parameters() if p.is_floating_point()} == {torch.float64}:
        _become(module, _ComputesInFloat64)
    return own


def rounded(values: Mapping[str, Tensor], dtypes: Dtypes) -> dict[str, Tensor]:
    """The values as the types of the network hold them, in the types that they have.

    Raises:
        DivergedError: if a finite number is beyond the range of the type.
    """
    return {name: own.to(values[name].dtype) for name, own in in_own_types(values, dtypes).items()}


def in_own_types(state: Mapping[str, Tensor], dtypes: Dtypes) -> dict[str, Tensor]:
    """The tensors in the types that the network had.

    Raises:
        DivergedError: if a finite number is beyond the range of the type.
    """
    own = {name: value.to(dtypes.get(name, value.dtype)) for name, value in state.items()}
    for name in dtypes.keys() & own.keys():
        if bool((state[name].isfinite() & ~own[name].isfinite()).any()):
            kind = str(dtypes[name]).removeprefix("torch.")
            hint = "build the network in bfloat16 or float32, or take a lower learning rate"
            raise DivergedError(name, f"holds numbers beyond the range of {kind}, the network's own type", hint=hint)
    return own


def describe_types(dtypes: Dtypes) -> str:
    """A note about the types that a network has and does not compute in."""
    kinds = listed(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes.values()}))
    return f"{kinds} tensors are computed with in float32, and written as {kinds}"


def _become(module: nn.Module, precision: type[Any]) -> None:
    kind = type(module)
    if not issubclass(kind, precision):
        # A class of its own, as parametrizations make one: hooks and attributes stay, and copies compute in the same.
        module.__class__ = type(kind.__name__, (precision, kind), {"__module__": kind.__module__})


class _ComputesInFloat32:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _WithoutHalf():
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # of the nn.Module


class _ComputesInFloat64:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        positional, named = tree_map(_double, (args, kwargs))
        return super().__call__(*positional, **named)  # type: ignore[misc]  # of the nn.Module


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype is torch.float32 else value


class _WithoutHalf(TorchFunctionMode):
    """While it is active, casts to half precision give float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in {Tensor.half, Tensor.bfloat16}:
            return args[0].float()
        args = tuple(map(_single, args))
        return func(*args, **{name: _single(value) for name, value in (kwargs or {}).items()})


def _single(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in HALF else value

"""Layers such as `nn.LazyLinear`, whose parameters get their shapes and values in the first pass."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from ntt_cli.data.batch import Batch, call, described, parts_of
from ntt_cli.errors import ModelError

HINT = "name data with --data, or write INPUT_SHAPE in model.py: one batch says which shape it takes"


def lazy_values(module: nn.Module) -> dict[str, UninitializedParameter | UninitializedBuffer]:
    """Its parameters and buffers without a shape, by name."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: value for name, value in named if isinstance(value, UninitializedParameter | UninitializedBuffer)}


def has_lazy(module: nn.Module) -> bool:
    return bool(lazy_values(module))


def make_lazy(module: nn.Module, x: Batch, where: str, running_code: AbstractContextManager[None]) -> None:
    """Run the network once in evaluation mode, so that lazy parameters are made, drawn by torch's own generator.

    Its code runs in the context `running_code`.

    Raises:
        ModelError: if it does not take the batch, or layers are still without a shape.
    """
    modes = [(part, part.training) for part in module.modules()]
    buffers = {name: b.clone() for name, b in module.named_buffers() if not is_lazy(b)}
    module.eval()
    try:
        with torch.no_grad(), running_code:
            _pass(module, x, where)
    finally:
        for part, training in modes:
            part.training = training
    own = dict(module.named_buffers())
    for name, before in buffers.items():
        if name in own and own[name].shape == before.shape:
            own[name].copy_(before)
    require_made(module, where, hint="a pass in evaluation mode does not reach it: use a layer that is not lazy")


def _pass(module: nn.Module, x: Batch, where: str) -> None:
    try:
        call(module, parts_of(x)[0])
    except (RuntimeError, TypeError, ValueError) as error:
        hint = "name data that the network takes, or pass one batch through it before ntt gets it"
        raise ModelError(where, f"cannot take inputs of {described(x)}: {error}", hint=hint) from error


def take_shapes(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make lazy parameters in the shapes of the tensors of their names; values are to be loaded."""
    for name, value in lazy_values(module).items():
        if name in tensors:
            value.materialize(tensors[name].shape)


def require_made(module: nn.Module, where: str, *, hint: str = HINT) -> None:
    """Refuse a network with layers that have no shape yet.

    Raises:
        ModelError: naming the first.
    """
    for name in lazy_values(module):
        raise ModelError(where, f"{name} has no shape yet", hint=hint)

"""A network whose weights a program stores in half precision, and that computes in float32 as before."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.networks.loading.objects import skeleton
from ntt_cli.networks.precision import HALF


def half_of(checkpoint: Checkpoint) -> torch.dtype | None:
    """The half precision that all weights of a file are in; `None` if they are not."""
    kinds = {v.dtype for v in checkpoint.tensors.values() if v.is_floating_point() and v.element_size() > 1}
    return kinds.pop() if len(kinds) == 1 and kinds <= HALF else None


def stored_in(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A module that returns the same, with each tensor in `dtype` that loses nothing in it; `None`: the module itself.

    The names in its state dict are the same. What the file of weights had in this type comes back to the last bit.
    """
    if dtype is None:
        return module
    outer, made = skeleton(module), dict[int, nn.Parameter]()
    for name, value in [*outer.named_parameters(remove_duplicate=False), *outer.named_buffers(remove_duplicate=False)]:
        if value.dtype == torch.float32 and torch.equal(value.to(dtype).float(), value):
            layer, _, own = name.rpartition(".")
            made.setdefault(id(value), nn.Parameter(value.to(dtype), requires_grad=False))  # a tied one stays tied
            parts = outer.get_submodule(layer)
            parts._buffers.pop(own, None)
            parts.register_parameter(own, made[id(value)])

    def forward(*positional: Any, **named: Any) -> Any:
        values = dict(outer.named_parameters(remove_duplicate=False)) | dict(
            outer.named_buffers(remove_duplicate=False)
        )
        computed = {name: value.float() if value.dtype == dtype else value for name, value in values.items()}
        return functional_call(module, computed, positional, named, tie_weights=False)

    forward.__signature__ = module.forward.__signature__  # type: ignore[attr-defined]  # that of `returning`
    outer.forward = forward
    return outer

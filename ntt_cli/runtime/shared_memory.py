"""Different parameters that share memory: made one if they are the same numbers, refused if they overlap otherwise.

As parameters of a function, each would have its own values and its own mask. When a file is loaded, the last would win.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ntt_cli.errors import ModelError


def tie_shared_parameters(module: nn.Module, where: str) -> None:
    """Replace parameters that are the same numbers in memory by one parameter.

    Raises:
        ModelError: if a trainable parameter shares numbers with another parameter or a buffer in any other way.
    """
    first: dict[tuple[object, ...], nn.Parameter] = {}
    for layer in module.modules():
        for name, p in list(layer.named_parameters(recurse=False, remove_duplicate=False)):
            if not _has_memory(p):
                continue
            same = first.setdefault((p.data_ptr(), p.dtype, p.shape, p.stride(), p.requires_grad), p)
            if same is not p:
                setattr(layer, name, same)  # not `_parameters`, because recurrent layers also keep their own list
    parameters = dict(module.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad and _has_memory(p)}
    others = parameters | dict(module.named_buffers())
    values = trained | {name: value for name, value in others.items() if _has_memory(value)}
    by_storage: dict[int, list[str]] = {}
    for name, value in values.items():  # trained ones first: overlaps of constants do no harm
        by_storage.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    for names in by_storage.values():
        if len(names) > 1 and names[0] in trained:
            _check_disjoint({name: values[name] for name in names}, trained, where)


def _has_memory(value: Tensor) -> bool:
    return not is_lazy(value) and value.layout is torch.strided and value.device.type != "meta" and value.numel() > 0


def _check_disjoint(values: Mapping[str, Tensor], trained: Container[str], where: str) -> None:
    """Refuse two tensors that share an entry; interleaved columns of one matrix, for example, share none."""
    unit = min(value.element_size() for value in values.values())
    size = max(value.untyped_storage().nbytes() for value in values.values())
    owners = torch.zeros(size // unit + 1, dtype=torch.int32)
    names = list(values)
    for number, (name, value) in enumerate(values.items(), start=1):
        scale = value.element_size() // unit
        strides = [stride * scale for stride in value.stride()]
        shape = [size if stride else 1 for size, stride in zip(value.shape, strides, strict=True)]  # once, if expanded
        own = owners.as_strided(shape, strides, value.storage_offset() * scale)
        if other := int(own.max()):
            one = names[other - 1]
            shapes = f"{one} {list(values[one].shape)} and {name} {list(value.shape)}"
            hint = "use one nn.Parameter in both places, and take views of it in forward(); or clone() the second"
            raise ModelError(where, f"{shapes} share memory, and are not one parameter", hint=hint)
        if name in trained:
            own.fill_(number)

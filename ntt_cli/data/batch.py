"""Batches of inputs: a tensor, a tuple of tensors (positional arguments) or a dict of them (keyword arguments).

The first axis of every tensor is the sample. Only this file distinguishes the kinds. The fourth is a `Bundle` of values
that cannot be divided into samples; each counts as one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ntt_cli.data.bundle import Bundle, fields_of, joined, map_tensors, moved, named_within, tensors_within

Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor] | Bundle


def map_batch(function: Callable[[Tensor], Tensor], batch: Batch) -> Any:
    """A batch of the same kind, with the function applied to each tensor."""
    if isinstance(batch, Bundle):
        return replace(batch, parts=tuple(map_tensors(function, part) for part in batch.parts))
    return rebuilt(batch, [function(part) for part in tensors_of(batch)])


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Bundle):
        return [x for part in batch.parts for x in tensors_within(part)]
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple) else [batch]


def batch_size(batch: Batch) -> int:
    """The number of samples in a batch, which must be the same for each of its tensors."""
    if isinstance(batch, Bundle):
        return len(batch)
    sizes = {len(part) for part in tensors_of(batch)}
    if len(sizes) != 1:
        raise ValueError(f"the tensors of a batch have {sorted(sizes)} samples")
    return sizes.pop()


def select(batch: Batch, indices: Tensor) -> Any:
    """The samples at `indices`, `[b]`."""
    if isinstance(batch, Bundle):
        return batch.select(indices.tolist())
    return map_batch(lambda part: part[indices], batch)


def split(batch: Batch, size: int | list[int]) -> list[Any]:
    """Batches of at most `size` samples, or of these numbers of samples, in order; they share memory with the batch."""
    if isinstance(batch, Bundle):
        return [batch.select(part.tolist()) for part in torch.arange(len(batch)).split(size)]
    divided = zip(*(torch.split(part, size) for part in tensors_of(batch)), strict=True)
    return [rebuilt(batch, parts) for parts in divided]


def halves(batch: Batch) -> tuple[Any, Any]:
    """The first half of the samples, which has one more if their number is odd, and the second."""
    n = batch_size(batch)
    first, second = split(batch, [n - n // 2, n // 2])
    return first, second


def concatenate(batches: Sequence[Batch]) -> Any:
    """One batch of all samples, in order."""
    if isinstance(batches[0], Bundle):
        return joined([batch for batch in batches if isinstance(batch, Bundle)])
    return rebuilt(batches[0], [torch.cat(parts) for parts in zip(*map(tensors_of, batches), strict=True)])


def stack(samples: Sequence[Batch]) -> Any:
    """A batch of single samples, which have no axis that counts samples."""
    return rebuilt(samples[0], [torch.stack(parts) for parts in zip(*map(tensors_of, samples), strict=True)])


def rebuilt(batch: Batch, parts: Sequence[Tensor]) -> Any:
    """A batch of the same kind and with the same names, of other tensors."""
    if isinstance(batch, dict):
        return dict(zip(batch, parts, strict=True))
    return tuple(parts) if isinstance(batch, tuple) else parts[0]


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches of one kind hold the same values."""
    return all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))


def described(batch: Batch, *, skip: int = 0) -> str:
    """The shapes of a batch, with the names of its tensors if it has several; without the first `skip` axes."""
    skip = 0 if isinstance(batch, Bundle) else skip
    return ", ".join(f"{name} {list(x.shape[skip:])}".lstrip() for name, x in named_tensors(batch))


def named_tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    """The tensors with their keys or numbers; one alone has an empty name. Of a bundle, those of its first part."""
    if isinstance(batch, Bundle):
        return named_within(batch.parts[0])
    parts = tensors_of(batch)
    if isinstance(batch, dict | tuple):
        names = list(batch) if isinstance(batch, dict) else [f"input {i}" for i in range(len(parts))]
        return list(zip(names, parts, strict=True))
    return [("", batch)]


def to_device(batch: Batch, device: torch.device) -> Any:
    if isinstance(batch, Bundle):
        return replace(batch, parts=tuple(moved(part, device) for part in batch.parts))
    return map_batch(lambda part: part.to(device), batch)


def parts_of(batch: Batch) -> tuple[Any, ...]:
    """What goes through a network in one call: the batch itself, or each part of a bundle."""
    return batch.parts if isinstance(batch, Bundle) else (batch,)


def call(function: Callable[..., Any], batch: Any) -> Any:
    """What a network or a function returns for a batch that is no bundle, or for a part of one."""
    positional, named = arguments(batch, function)
    return function(*positional, **named)


def arguments(batch: Any, function: Callable[..., Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments with which to call a network on a batch or a part of a bundle.

    The fields of an object, such as a graph, are arguments by their names if the network has arguments of these names;
    otherwise the object is the one argument.
    """
    if isinstance(batch, dict):
        return (), batch
    if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
        return batch, {}
    if isinstance(batch, Tensor | tuple | list) or function is None:
        return (batch,), {}
    required, optional = argument_names(function)
    fields = {name: value for name, value in fields_of(batch).items() if value is not None}
    if required and all(name in fields for name in required):
        return (), {name: fields[name] for name in (*required, *optional) if name in fields}
    return (batch,), {}


def argument_names(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of the positional arguments that a network or a function must be given, and of those that it may be."""
    try:
        parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):  # compiled code need not have a signature
        return [], []
    named = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = [p.name for p in named if p.default is p.empty]
    return required, [p.name for p in named if p.default is not p.empty]

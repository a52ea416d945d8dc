"""Batches of inputs: a tensor, a tuple of tensors (positional arguments) or a dict of them (keyword arguments).

The first axis of every tensor is the sample. Only this file distinguishes the three kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def map_batch(function: Callable[[Tensor], Tensor], batch: Batch) -> Any:
    """A batch of the same kind, with the function applied to each tensor."""
    return rebuilt(batch, [function(part) for part in tensors_of(batch)])


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple) else [batch]


def batch_size(batch: Batch) -> int:
    """The number of samples in a batch, which must be the same for each of its tensors."""
    sizes = {len(part) for part in tensors_of(batch)}
    if len(sizes) != 1:
        raise ValueError(f"the tensors of a batch have {sorted(sizes)} samples")
    return sizes.pop()


def select(batch: Batch, indices: Tensor) -> Any:
    """The samples at `indices`, `[b]`."""
    return map_batch(lambda part: part[indices], batch)


def split(batch: Batch, size: int | list[int]) -> list[Any]:
    """Batches of at most `size` samples, or of these numbers of samples, in order; they share memory with the batch."""
    divided = zip(*(torch.split(part, size) for part in tensors_of(batch)), strict=True)
    return [rebuilt(batch, parts) for parts in divided]


def halves(batch: Batch) -> tuple[Any, Any]:
    """The first half of the samples, which has one more if their number is odd, and the second."""
    n = batch_size(batch)
    first, second = split(batch, [n - n // 2, n // 2])
    return first, second


def concatenate(batches: Sequence[Batch]) -> Any:
    """One batch of all samples, in order."""
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
    return ", ".join(f"{name} {list(x.shape[skip:])}".lstrip() for name, x in named_tensors(batch))


def named_tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    """The tensors with their keys or numbers; a tensor alone has an empty name."""
    parts = tensors_of(batch)
    if isinstance(batch, dict | tuple):
        names = list(batch) if isinstance(batch, dict) else [f"input {i}" for i in range(len(parts))]
        return list(zip(names, parts, strict=True))
    return [("", batch)]


def call(function: Callable[..., Any], batch: Batch) -> Any:
    """What a function returns for a batch."""
    positional, named = arguments(batch)
    return function(*positional, **named)


def to_device(batch: Batch, device: torch.device) -> Any:
    return map_batch(lambda part: part.to(device), batch)


def arguments(batch: Batch) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The positional and keyword arguments with which to call a network."""
    if isinstance(batch, dict):
        return (), batch
    return ((batch,) if isinstance(batch, Tensor) else batch), {}

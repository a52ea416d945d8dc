"""Batches of inputs: a tensor, a tuple of tensors (positional arguments) or a dict of them (keyword arguments).

The first axis of every tensor is the sample. Only this file distinguishes the three kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def map_batch(function: Callable[[Tensor], Tensor], batch: Batch) -> Any:
    """A batch of the same kind, with the function applied to each tensor."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: function(part) for name, part in batch.items()}
    return tuple(function(part) for part in batch)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        return [batch]
    return list(batch.values() if isinstance(batch, dict) else batch)


def batch_size(batch: Batch) -> int:
    """The number of samples in a batch, which must be the same for each of its tensors."""
    sizes = {len(part) for part in tensors_of(batch)}
    if len(sizes) != 1:
        raise ValueError(f"the tensors of a batch have {sorted(sizes)} samples")
    return sizes.pop()


def select(batch: Batch, indices: Tensor) -> Any:
    """The samples at `indices`, `[b]`."""
    return map_batch(lambda part: part[indices], batch)


def split(batch: Batch, size: int) -> list[Any]:
    """Batches of at most `size` samples, in order."""
    return [select(batch, part) for part in torch.arange(batch_size(batch)).split(size)]


def to_device(batch: Batch, device: torch.device) -> Any:
    return map_batch(lambda part: part.to(device), batch)


def arguments(batch: Batch) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The positional and keyword arguments with which to call a network."""
    if isinstance(batch, dict):
        return (), batch
    return ((batch,) if isinstance(batch, Tensor) else batch), {}

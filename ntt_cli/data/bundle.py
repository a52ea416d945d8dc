"""Batches that cannot be divided into samples: graphs, and sequences of unequal lengths.

A `Bundle` holds one or more of them. Each counts as one sample: all its outputs together are one row.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """Batches that a network takes one by one.

    Attributes:
        parts: a tensor, a tuple (positional arguments), a dict (keyword arguments), or any other value that a network
            takes, such as a list of tensors or a graph.
        sizes: the number of outputs in each head, the largest of any part; `None` until a pass has shown it. Rows of
            parts with fewer outputs are filled with zeros, which add nothing to distances and kernels.
        counts: how many outputs each part has, without those that do not count; `None` like the sizes.
    """

    parts: tuple[Any, ...]
    sizes: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.parts)

    def select(self, indices: Sequence[int]) -> Bundle:
        """Those of the parts, with the same sizes."""
        counts = None if self.counts is None else tuple(self.counts[i] for i in indices)
        return Bundle(tuple(self.parts[i] for i in indices), self.sizes, counts)


def joined(bundles: Sequence[Bundle]) -> Bundle:
    """All parts in one bundle, with the largest sizes."""
    known = [bundle.sizes for bundle in bundles if bundle.sizes is not None]
    parts = tuple(part for bundle in bundles for part in bundle.parts)
    if len(known) < len(bundles):
        return Bundle(parts)
    counts = tuple(count for bundle in bundles for count in bundle.counts or ())
    return Bundle(parts, tuple(map(max, zip(*known, strict=True))), counts)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A value of the same kind, with the function applied to each tensor in it; the value itself is unchanged."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, PackedSequence):
        return value._replace(data=function(value.data))  # its other tensors are lengths, which stay on the CPU
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(function, item) for item in value)
    if not _has_fields(value):
        return value
    copied = copy.copy(value)
    if callable(apply := getattr(copied, "apply", None)):  # a graph of torch_geometric
        return apply(function)
    for name, item in list(vars(copied).items()):
        object.__setattr__(copied, name, map_tensors(function, item))
    return copied


def tensors_within(value: Any) -> Iterator[Tensor]:
    """All tensors in a value."""
    found: list[Tensor] = []
    map_tensors(lambda x: found.append(x) or x, value)  # type: ignore[func-returns-value]  # None, so that `or` gives x
    yield from found


def named_within(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """All tensors in a value, with their keys and positions."""
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in named_within(item, f"{name} {key}".strip())]
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        return [pair for i, item in enumerate(value) for pair in named_within(item, f"{name} input {i}".strip())]
    if isinstance(value, Tensor):
        return [(name, value)]
    fields = fields_of(value)
    if any(isinstance(item, Tensor) for item in fields.values()):
        return [(key, item) for key, item in fields.items() if isinstance(item, Tensor)]
    return [(name, x) for x in tensors_within(value)]


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of an object by name, such as `x` and `edge_index` of a graph."""
    if callable(convert := getattr(value, "to_dict", None)):
        return dict(convert())
    return dict(vars(value)) if hasattr(value, "__dict__") else {}


def moved(value: Any, device: torch.device) -> Any:
    """A value with its tensors on a device."""
    if isinstance(value, PackedSequence):
        return value.to(device)  # type: ignore[arg-type]  # torch documents it
    return map_tensors(lambda x: x.to(device), value)


def _has_fields(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, type) and not hasattr(value, "__code__")

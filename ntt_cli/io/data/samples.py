"""What every data source becomes: inputs that can be fetched by index, with labels where there are any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ntt_cli.config import Split

EAGER_BYTES = 2 * 2**30
"""Inputs up to this size are read and checked at once and kept in memory; larger ones are read as they are needed."""

PARTS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
"""What the parts of divided data may be called: arrays `x_train`, folders `train/`."""


class InputSource(Protocol):
    """Raw inputs, before standardisation."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor) -> Tensor:
        """The samples at these indices: float32 (images as `[b, c, h, w]` in [0, 1]), or int64 tokens."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Samples held as one tensor: uint8 images, float32 or int64."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def fetch(self, indices: Tensor) -> Tensor:
        return to_unit_range(self.values[indices])


@dataclass(frozen=True, eq=False)
class Selection:
    """Some samples of another source."""

    source: InputSource
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Tensor) -> Tensor:
        return self.source.fetch(self.indices[indices])


@dataclass(frozen=True, eq=False)
class Samples:
    """A data set.

    Attributes:
        spec: the data as the user named it.
        source: the inputs.
        labels: int64 `[n]`, or None where the data has none.
        class_names: in the order of the labels, where they are known.
        split: the part of the data that this is; None where the data is not divided, so that both are the same samples.
    """

    spec: str
    source: InputSource
    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    split: Split | None = None

    def __len__(self) -> int:
        return len(self.source)

    def inputs(self, indices: Tensor) -> Tensor:
        return self.source.fetch(indices)

    def without_labels(self) -> Samples:
        return replace(self, labels=None, class_names=None)

    def subset(self, indices: Tensor) -> Samples:
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, source=Selection(self.source, indices), labels=labels)


def to_unit_range(x: Tensor) -> Tensor:
    """The uint8 values of images as float32 in [0, 1]; anything else as it is."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def draw(n: int, limit: int | None) -> Tensor:
    """The indices that `--limit` leaves of `n` samples: a random subset, always the same one, in ascending order."""
    if limit is None or limit >= n:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:limit].sort().values

"""Items of unequal shapes: batches of those of one shape, so that nothing need be padded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ntt_cli.data.batch import Batch, stack
from ntt_cli.data.convert import type_and_shape
from ntt_cli.data.samples import Samples
from ntt_cli.data.sources.batches import whole_samples
from ntt_cli.data.sources.streams import Stream

BATCH = 32
"""The most items of one batch."""


@dataclass(frozen=True, eq=False)
class Items(Dataset[Any]):
    """Items that `read` gives by their numbers: an input, and a label or `None`."""

    read: Callable[[int], tuple[Batch, Any]]
    n: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Batch, Any]:
        return self.read(i)


def unequal_samples(read: Callable[[int], tuple[Batch, Any]], numbers: Tensor, *, spec: str, labelled: bool) -> Samples:
    """Whole batches of items, those of each shape together, in an order that is always the same."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i in numbers.tolist():
        groups[type_and_shape(read(i)[0])].append(i)
    batches = [group[first : first + BATCH] for group in groups.values() for first in range(0, len(group), BATCH)]
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    items = Items(read, int(numbers.max()) + 1)
    loader = DataLoader(items, batch_sampler=[batches[i] for i in order], collate_fn=_collated)
    return whole_samples(Stream(loader, spec), spec, labelled=labelled)


def _collated(items: list[tuple[Batch, Any]]) -> tuple[Any, Any]:
    """A batch, and its labels; a list of them if they are of unequal shapes."""
    labels: list[Any] = [label for _, label in items]
    labels = [y if y is None or isinstance(y, dict | tuple) else torch.as_tensor(y) for y in labels]
    if any(label is None for label in labels):
        return stack([x for x, _ in items]), None
    alike = len({type_and_shape(label) for label in labels}) == 1
    return stack([x for x, _ in items]), (stack(labels) if alike else labels)

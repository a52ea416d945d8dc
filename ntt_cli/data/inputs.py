"""Samples as inputs of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ntt_cli.data import Reading, Samples
from ntt_cli.data.batch import Batch, to_device
from ntt_cli.data.normalise import normalise
from ntt_cli.files.metadata import MeanStd, Normalisation

USUAL_BATCH = 32
"""The number of samples that a batch of unknown size is taken to have."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples as inputs of a network: normalised by `mean_std`, if that is not `None`, and on its device."""

    samples: Samples
    mean_std: MeanStd | None
    device: torch.device
    normalisation: Normalisation | None = None
    """Of the network's inputs, in later commands too; `None` if it is not known."""

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor, reading: Reading = ()) -> Batch:
        """The inputs at `indices`, `[b, ...]`; random inputs are drawn for this `reading`."""
        x: Batch = to_device(normalise(self.samples.inputs(indices, reading), self.mean_std), self.device)
        return x

    def labelled(self, indices: Tensor, reading: Reading = ()) -> tuple[Batch, Any]:
        """The inputs at `indices`, and their labels, `[b]` or `[b, ...]`, or several such, in the same reading."""
        x, labels = self.samples.read(indices, reading)
        return to_device(normalise(x, self.mean_std), self.device), to_device(labels, self.device)

    def draw(self, number: int, size: int, generator: torch.Generator) -> Tensor:
        """The indices of the batch of this number in a run: random ones, or the next where whole batches are taken."""
        if self.samples.successive:
            return torch.arange(number * size, (number + 1) * size)
        return torch.randint(len(self), (size,), generator=generator)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Batches of all inputs in order, `[b, ...]`, `b` at most `size`."""
        return (self.batch(indices) for indices in self.indices(size))

    def indices(self, size: int) -> Iterator[Tensor]:
        """The indices of all inputs in order, at most `size` at a time; whole batches come one by one."""
        if not self.samples.successive:
            yield from torch.arange(len(self)).split(size)
            return
        for number in self.samples.source.one_pass():  # type: ignore[attr-defined]  # of whole batches
            yield torch.tensor([number])

    def some(self, n: int) -> Inputs:
        """At most `n` samples, always the same random ones: the first samples of a folder may all have one class.

        Of whole batches, the first few: as many as there would be if each had `USUAL_BATCH` samples.
        """
        if self.samples.successive:
            most = min(len(self), max(2, n // USUAL_BATCH))
            return replace(self, samples=self.samples.subset(torch.arange(most)))
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n]
        return replace(self, samples=self.samples.subset(chosen))

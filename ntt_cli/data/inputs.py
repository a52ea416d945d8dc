"""Samples as inputs of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ntt_cli.data import Reading, Samples
from ntt_cli.data.batch import Batch, select, to_device
from ntt_cli.data.normalise import normalise
from ntt_cli.files.metadata import MeanStd, Normalisation


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

    def labels(self, indices: Tensor) -> Any:
        """The labels at `indices`, `[b]` or `[b, ...]`, or several such."""
        assert self.samples.labels is not None
        return to_device(select(self.samples.labels, indices), self.device)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Batches of all inputs in order, `[b, ...]`, `b` at most `size`."""
        return (self.batch(indices) for indices in torch.arange(len(self)).split(size))

    def some(self, n: int) -> Inputs:
        """At most `n` samples, always the same random ones: the first samples of a folder may all have one class."""
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n]
        return replace(self, samples=self.samples.subset(chosen))

"""Samples as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntt_cli.data import Reading, Samples
from ntt_cli.data.batch import to_device
from ntt_cli.data.normalise import normalise
from ntt_cli.files.metadata import MeanStd, Normalisation


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples as the network takes them: normalised, on its device.

    Attributes:
        samples: the raw samples.
        mean_std: how they are normalised; `None`: not at all.
        device: where batches are put.
        normalisation: what the network's inputs go through in later commands, too; `None` where that is not known.
    """

    samples: Samples
    mean_std: MeanStd | None
    device: torch.device
    normalisation: Normalisation | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor, reading: Reading = ()) -> Tensor:
        """The inputs at `indices`, `[b, ...]`; random ones as they are drawn in this reading."""
        x: Tensor = to_device(normalise(self.samples.inputs(indices, reading), self.mean_std), self.device)
        return x

    def labels(self, indices: Tensor) -> Tensor:
        """The labels at `indices`, `[b]`."""
        assert self.samples.labels is not None
        return self.samples.labels[indices].to(self.device)

    def in_order(self, size: int) -> Iterator[Tensor]:
        """Batches of all inputs in order, `[b, ...]`, `b` at most `size`."""
        return (self.batch(indices) for indices in torch.arange(len(self)).split(size))

    def some(self, n: int) -> Inputs:
        """At most `n` samples, drawn at random, always the same: the first of a folder may be all of one class."""
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n]
        return replace(self, samples=self.samples.subset(chosen))

"""The result of every data source: inputs that can be fetched by index, and labels if there are any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ntt_cli.config import LEAVE_OUT, DataOptions, Split, as_typed
from ntt_cli.data.batch import Batch, batch_size, described, map_batch, select, split
from ntt_cli.data.bundle import Bundle
from ntt_cli.errors import UsageError

EAGER_BYTES = 2 * 2**30
"""Inputs up to this size are read and checked at once and kept in memory; larger ones are read when needed."""

IGNORED = -100
"""The label of a position to ignore, as in `torch.nn.functional.cross_entropy`."""

NAMES_SHOWN = 10
NAME_LENGTH = 20
"""The most letters of class names in the description of data."""

PARTS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
"""Names of the parts of divided data, as in arrays `x_train` and folders `train/`."""


Reading = tuple[int, ...]
"""A seed and a number, such as a step's. Random samples differ between readings; other samples do not."""

Changes = Literal["never", "seeded", "always"]
"""Whether samples differ between readings. Seeded samples are the same again in the same reading."""


class InputSource(Protocol):
    """Raw inputs, before they are normalised."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Batch:
        """The samples at these indices: uint8 images `[b, c, h, w]`, float32 or int64 tokens, or several of these."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Samples in a tensor or in several: uint8 images, float32 or int64."""

    values: Batch

    def __len__(self) -> int:
        return batch_size(self.values)

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Batch:
        chosen: Batch = select(self.values, indices)
        return chosen


@dataclass(frozen=True, eq=False)
class Selection:
    source: InputSource
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Batch:
        return self.source.fetch(self.indices[indices], reading)

    def read(self, indices: Tensor, reading: Reading = ()) -> tuple[Batch, Any]:
        # Only sources whose labels come with their inputs are asked.
        return self.source.read(self.indices[indices], reading)  # type: ignore[attr-defined, no-any-return]  # as above


@dataclass(frozen=True, eq=False)
class Samples:
    """A data set.

    Attributes:
        spec: the data as the user named it.
        source: the inputs.
        labels: int64 `[n]` or `[n, ...]`, or other targets as float32, or several such; `None` if the data has none.
        class_names: in the order of the labels; `None` if they are not known.
        split: the part of the data that this is; `None` if the data is not divided, so that both parts are the same.
        only_folder: the one sub-folder with all unlabelled images; it is a class if the network knows its name.
        changes: whether the inputs differ between readings.
        normalised: whether the network takes the inputs as they are, as with noise.
        labels_name: the name of the labels, if they were found among the inputs of a dict.
        labels_read: whether labels come with the inputs in each reading, by `source.read`, because they may change.
        bundled: whether batches are bundles, of samples or batches that cannot be joined. If `labels_read` too,
            `labels` are those of the first batch alone.
        successive: whether the source gives whole batches, one after the other, and indices count batches.
    """

    spec: str
    source: InputSource
    labels: Batch | None = None
    class_names: tuple[str, ...] | None = None
    split: Split | None = None
    only_folder: str | None = None
    changes: Changes = "never"
    normalised: bool = False
    labels_name: str | None = None
    labels_read: bool = False
    bundled: bool = False
    successive: bool = False

    def __len__(self) -> int:
        return len(self.source)

    def described(self) -> str:
        """The number, shape and classes of the samples, in a line of bounded length."""
        x, kind = self.source.fetch(torch.arange(1)), "sample"
        if isinstance(x, Tensor):
            kind = "image" if x.dtype == torch.uint8 else "sample" if x.is_floating_point() else "sequence"
        if isinstance(x, Bundle):
            what = f"{self.spec}, {self._counted_batches()}, the first of {described(x):.300}"
        else:
            what = f"{self.spec}, {len(self):,} {kind}{'s' * (len(self) != 1)} of {described(x, skip=1):.300}"
        if self.labels_name is not None:
            what += f"; {self.labels_name} are labels"
        if self.class_names is not None:
            names = [name if len(name) <= NAME_LENGTH else name[:NAME_LENGTH] + "…" for name in self.class_names]
            more = ", …" * (len(names) > NAMES_SHOWN)
            plural = "es" * (len(names) != 1)
            what += f" in {len(names):,} class{plural}: {', '.join(names[:NAMES_SHOWN])}{more}"
        if self.changes != "never":
            what += "; its items are random, and drawn anew in each reading"
        return what

    def _counted_batches(self) -> str:
        n, kind = len(self), "batch" if self.successive else "sample"
        least = "at least " * getattr(self.source, "goes_on", False)
        plural = "es" if self.successive else "s"
        return (
            f"{least}{n:,} {kind}{plural * (n != 1)} of unequal shapes"
            if not self.successive
            else (f"{least}{n:,} {kind}{plural * (n != 1)}, taken as they come")
        )

    def inputs(self, indices: Tensor, reading: Reading = ()) -> Batch:
        """The inputs at `indices`: images in [0, 1], other values as they are stored."""
        x: Batch = map_batch(_scaled, self.source.fetch(indices, reading))
        return x

    def read(self, indices: Tensor, reading: Reading = ()) -> tuple[Batch, Any]:
        """The inputs at `indices`, and their labels in the same reading."""
        if self.labels_read:
            x, labels = self.source.read(indices, reading)  # type: ignore[attr-defined]  # as `labels_read` says
            return map_batch(_scaled, x), labels
        assert self.labels is not None
        x, labels = self.inputs(indices, reading), select(self.labels, indices)
        return x, (Bundle(tuple(split(labels, 1))) if isinstance(x, Bundle) else labels)

    def held_out(self, count: int) -> tuple[Samples, Samples]:
        """The first batches of a pass, and all others; with too few of them, all for both."""
        if len(self) < count + 2:
            return self, self
        first, rest = self.source.held_out(count)  # type: ignore[attr-defined]  # of whole batches
        return replace(self, source=first, changes="never"), replace(self, source=rest)

    def subset(self, indices: Tensor) -> Samples:
        if self.successive:
            return replace(self, source=self.source.chosen(indices))  # type: ignore[attr-defined]  # as `successive`
        labels = None if self.labels is None else select(self.labels, indices)
        return replace(self, source=Selection(self.source, indices), labels=labels)


def _scaled(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def refuse_workers(options: DataOptions, spec: str, why: str) -> None:
    """Refuse `--workers` for data that this process reads.

    Raises:
        UsageError: if any are asked for.
    """
    if options.workers:
        raise UsageError(as_typed(options, "workers"), f"{spec}: {why}", hint=LEAVE_OUT)


def draw(n: int, limit: int | None) -> Tensor:
    """The indices that `--limit` leaves of `n` samples: a random subset, always the same one, in ascending order."""
    if limit is None or limit >= n:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:limit].sort().values

"""Whole batches, one after the other, as a DataLoader gives them: for batches that cannot be divided into samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ntt_cli.config import Split
from ntt_cli.data.batch import argument_names
from ntt_cli.data.bundle import Bundle, fields_of, map_tensors, tensors_within
from ntt_cli.data.convert import inputs_and_labels
from ntt_cli.data.samples import IGNORED, Changes, Reading, Samples
from ntt_cli.data.sources.streams import Fixed, Stream
from ntt_cli.errors import DataError

Names = tuple[list[str], list[str]]
"""The names of the arguments that a network must be given, and of those that it may be."""


@dataclass(frozen=True, eq=False)
class WholeBatches:
    """The inputs of whole batches, and their labels.

    Attributes:
        batches: the sequence.
        spec: its name in messages.
        names: of the network's arguments, which tell inputs from labels in a tuple.
        n: the number of batches in a pass.
        goes_on: whether a pass has more than these.
        split: the part of a graph's nodes whose labels count: those of its `train_mask`, or of its `test_mask`.
    """

    batches: Stream | Fixed
    spec: str
    names: Names
    n: int
    goes_on: bool = False
    split: Split = "train"

    def __len__(self) -> int:
        return self.n

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Bundle:
        return Bundle(tuple(self._parts(i)[0] for i in indices.tolist()))

    def read(self, indices: Tensor, reading: Reading = ()) -> tuple[Bundle, Bundle]:
        """The inputs and the labels of these batches."""
        parts = [self._parts(i) for i in indices.tolist()]
        return Bundle(tuple(x for x, _ in parts)), Bundle(tuple(y for _, y in parts))

    def one_pass(self) -> Iterator[int]:
        return self.batches.one_pass()

    def chosen(self, indices: Tensor) -> WholeBatches:
        """These batches alone."""
        kept = [self.batches.at(i) for i in indices.tolist()]
        return replace(self, batches=Fixed(kept), n=len(kept), goes_on=False)

    def held_out(self, count: int) -> tuple[WholeBatches, WholeBatches]:
        """The first batches of a pass, and all others."""
        if isinstance(self.batches, Fixed):
            rest: Stream | Fixed = Fixed(self.batches.batches[count:])
        else:
            old = self.batches
            rest = Stream(old.loader, old.spec, old.limit, old.path, skip=old.skip + count)
        return self.chosen(torch.arange(count)), replace(self, batches=rest, n=self.n - count)

    def _parts(self, index: int) -> tuple[Any, Any]:
        where = f"batch {index} of {self.spec}"
        x, labels = inputs_of(self.batches.at(index), self.names, where, split=self.split)
        return _as_numbers(x), _as_numbers(labels)


def inputs_of(batch: Any, names: Names, where: str, *, split: Split = "train") -> tuple[Any, Any]:
    """What a network takes of a batch, and its labels, `None` if there are none.

    A pair is inputs and labels, unless the network must be given two. A longer tuple is all inputs if the network takes
    as many; the last is labels if it takes one less. The labels of a graph are its `y`, where it has a `train_mask` or
    `test_mask` for the split those of its nodes alone.

    Raises:
        DataError: if a tuple has more entries than the network has arguments.
    """
    required, optional = names
    most = len(required) + len(optional)
    if isinstance(batch, Mapping):
        x, labels, _ = inputs_and_labels(batch, where)
        return x, labels
    if isinstance(batch, tuple | list) and not hasattr(batch, "_fields"):
        plain = isinstance(batch[0], Tensor) if batch else False
        if len(batch) == 1:
            return batch[0], None
        if len(batch) == 2 and _of_each_image(*batch):
            return list(batch[0]), list(batch[1])
        if len(batch) == 2 and not (plain and len(required) > 1):
            return (batch[0], batch[1])
        if isinstance(batch, list) and most < len(batch) - 1:
            return batch, None  # the one argument, such as the images of a detector
        if most and len(batch) == most + 1:
            x = tuple(batch[:-1])
            return (x if len(x) > 1 else x[0]), batch[-1]
        if most and len(batch) > most:
            what = f"has {len(batch)} parts, and the network takes {most}"
            raise DataError(where, what, hint="give what the network takes, and labels or None: ((x1, x2), labels)")
        return tuple(batch), None
    if isinstance(batch, Tensor):
        return batch, None
    return batch, _labels_of_graph(fields_of(batch), split)


def _of_each_image(x: Any, labels: Any) -> bool:
    """Whether a pair holds images one by one, and a dict for each, as for torchvision's detectors."""
    if not isinstance(x, tuple | list) or not isinstance(labels, tuple | list) or len(x) != len(labels):
        return False
    return all(isinstance(one, Tensor) for one in x) and all(isinstance(one, Mapping) for one in labels)


def _labels_of_graph(fields: Mapping[str, Any], split: Split) -> Any:
    labels = fields.get("y")
    mask = fields.get(f"{split}_mask")
    if isinstance(labels, Tensor) and isinstance(mask, Tensor) and mask.shape == labels.shape:
        return labels.masked_fill(~mask, IGNORED)
    return labels


def _as_numbers(value: Any) -> Any:
    """The tensors as inputs or labels: floats as float32, whole numbers as int64, and images as they are."""

    def convert(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return x.float()
        if x.dtype == torch.bool or x.is_complex() or (x.dtype == torch.uint8 and x.ndim > 2):
            return x
        return x.long()

    return value if value is None else map_tensors(convert, value)


def whole_samples(batches: Stream | Fixed, spec: str, *, labelled: bool) -> Samples:
    """Whole batches, and how many a pass has.

    Raises:
        DataError: if there are none, or the first holds a number that is not finite.
    """
    n, goes_on = batches.counted()
    if n == 0:
        raise DataError(spec, "yields no batches", hint="give one that has batches")
    source = WholeBatches(batches, spec, ([], []), n, goes_on)
    found = Samples(spec, source, bundled=True, successive=True, labels_read=labelled, changes=_changes(batches))
    return _with_labels(found)


def with_arguments(found: Samples, network: Any, split: Split) -> Samples:
    """Whole batches for a network, whose arguments tell the inputs and the labels in a tuple apart."""
    if not isinstance(found.source, WholeBatches):
        return found
    source = replace(found.source, names=argument_names(network), split=split)
    return _with_labels(replace(found, source=source))


def _with_labels(found: Samples) -> Samples:
    """With the labels of the first batch, for checks.

    Raises:
        DataError: if the first batch holds a number that is not finite.
    """
    assert isinstance(found.source, WholeBatches)
    x, labels = found.source.read(torch.arange(1))
    if not all(part.isfinite().all() for part in tensors_within(x.parts[0]) if part.is_floating_point()):
        raise DataError(
            found.spec, "its first batch holds NaN or infinity", hint="remove such samples, or replace them"
        )
    return replace(found, labels=labels.parts[0] if found.labels_read else None)


def _changes(batches: Stream | Fixed) -> Changes:
    """Whether the first batches are the same when they are read again, and in the next pass."""
    if isinstance(batches, Fixed):
        return "never"

    def first(stream: Stream, index: int) -> list[Tensor]:
        return list(tensors_within(stream.at(index)))

    again = Stream(batches.loader, batches.spec, batches.limit, batches.path)
    if not _equal(first(batches, 0), first(again, 0)):
        return "always"
    n = batches._starts[1] if len(batches._starts) > 1 else None
    n = n if n is not None else batches._length()
    return "seeded" if n is None or not _equal(first(batches, 0), first(again, n)) else "never"


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

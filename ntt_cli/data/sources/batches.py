"""Whole batches, one after the other, as a DataLoader gives them: for batches that cannot be divided into samples."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ntt_cli.data.batch import argument_names
from ntt_cli.data.bundle import Bundle, fields_of, map_tensors, tensors_within
from ntt_cli.data.convert import inputs_and_labels
from ntt_cli.data.samples import IGNORED, Changes, Reading, Samples
from ntt_cli.errors import DataError
from ntt_cli.runtime.python_source import user_code
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws, seeded

COUNTED = 4096
"""The most batches of a loader without a length that are counted; after that, it goes on."""

KEPT_BATCHES, KEPT_BYTES = 64, 2**28
"""The first batches are kept, because checks read them many times: at most so many, in this memory."""

Names = tuple[list[str], list[str]]
"""The names of the arguments that a network must be given, and of those that it may be."""

_END = object()


class OwnGenerator:
    """A generator that a loader or its sampler has: it draws on, and is left as it was."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._first, self._seed = generator.get_state(), generator.initial_seed()
        self._state = self._first

    def begin(self, number: int) -> None:
        """The state for the pass of this number; the first begins where the generator is."""
        self._state = self._first if number == 0 else seeded(self._seed, number).get_state()

    @contextmanager
    def drawing(self) -> Generator[None]:
        before = self.generator.get_state()
        self.generator.set_state(self._state)
        try:
            yield
        finally:
            self._state = self.generator.get_state()
            self.generator.set_state(before)


@dataclass(eq=False)
class Stream:
    """The batches of a DataLoader in an endless sequence: when it ends, it starts again. Indices count them from 0.

    Its random draws are seeded by the pass and the place in it, so that a batch of one index is always the same.

    Attributes:
        loader: the DataLoader, with its own sampler, collate function and workers.
        spec: its name in messages.
        limit: batches of a pass, if fewer than it gives.
        path: the file that made it; `None` if a caller passed it.
        skip: batches that are left out at the beginning of each pass, because they are held out.
    """

    loader: Any
    spec: str
    limit: int | None = None
    path: Path | None = None
    skip: int = 0
    _starts: list[int] = field(default_factory=lambda: [0])
    _next: int = 0
    _iterator: Iterator[Any] | None = None
    _kept: dict[int, Any] = field(default_factory=dict)
    _bytes: int = 0
    _own: list[OwnGenerator] = field(init=False)

    def __post_init__(self) -> None:
        sampler, batches = getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)
        holders = [self.loader, sampler, batches, getattr(batches, "sampler", None)]
        found = {id(g): g for h in holders if isinstance(g := getattr(h, "generator", None), torch.Generator)}
        self._own = [OwnGenerator(generator) for generator in found.values()]

    def at(self, index: int) -> Any:
        """The batch of this index, as the loader gives it."""
        if index in self._kept:
            return self._kept[index]
        if self._iterator is None or index < self._next:
            self._restart(index)
        while True:
            batch, number = self._advance(), self._next - 1
            self._keep(number, batch)
            if number == index:
                return batch

    def one_pass(self) -> Iterator[int]:
        """The indices of the first pass, as far as it goes."""
        for index in count():
            self.at(index)
            if len(self._starts) > 1 and index >= self._starts[1]:
                return
            yield index

    def counted(self) -> tuple[int, bool]:
        """The number of batches in a pass, and whether it has more."""
        known = self._length()
        if known is not None:
            return known, False
        for number in self.one_pass():
            if number == COUNTED:
                return COUNTED, True
        return self._starts[1], False

    def _length(self) -> int | None:
        if isinstance(getattr(self.loader, "dataset", None), IterableDataset):
            return None  # a length that it declares need not be right
        try:
            n = len(self.loader)
        except TypeError:
            return None
        return max(0, min(n, self.limit or n) - self.skip)

    def _restart(self, index: int) -> None:
        if length := self._length():
            self._starts = [length * i for i in range(index // length + 1)]
        while self._starts[-1] > index:
            self._starts.pop()
        self._begin(self._starts[-1])

    def _begin(self, start: int) -> None:
        self._iterator, self._next = None, start
        number = len(self._starts) - 1
        for part in (self.loader, getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(number)
        for own in self._own:
            own.begin(number)
        with self._drawing(-1):
            self._iterator = iter(self.loader)
            for _ in range(self.skip):
                next(self._iterator, _END)

    def _advance(self) -> Any:
        """The next batch, of the next pass if this one has ended."""
        for _ in range(2):
            begun = self._next - self._starts[-1]
            batch: Any = _END
            if self.limit is None or begun + self.skip < self.limit:
                assert self._iterator is not None
                with self._drawing(begun):
                    batch = next(self._iterator, _END)
            if batch is not _END:
                self._next += 1
                return batch
            self._starts.append(self._next)
            self._begin(self._next)
        hint = "give one that has batches; an iterator is used up by one pass"
        raise DataError(self.spec, "yields no batches" + " but those held out" * bool(self.skip), hint=hint)

    def _keep(self, number: int, batch: Any) -> None:
        size = sum(x.nbytes for x in tensors_within(batch))
        if number < KEPT_BATCHES and number not in self._kept and self._bytes + size <= KEPT_BYTES:
            self._kept[number] = batch
            self._bytes += size

    @contextmanager
    def _drawing(self, place: int) -> Generator[None]:
        """While the loader draws: global generators are seeded for this place, and restored afterwards."""
        code: AbstractContextManager[None] = nullcontext() if self.path is None else user_code(self.path, DataError)
        with global_draws_apart(), code, ExitStack() as stack:
            seed_global_draws(0, len(self._starts) - 1, place + 1)
            for own in self._own:
                stack.enter_context(own.drawing())
            yield


@dataclass(eq=False)
class Fixed:
    """Batches in memory, in an endless sequence."""

    batches: list[Any]

    def at(self, index: int) -> Any:
        return self.batches[index % len(self.batches)]

    def one_pass(self) -> Iterator[int]:
        yield from range(len(self.batches))

    def counted(self) -> tuple[int, bool]:
        return len(self.batches), False


@dataclass(frozen=True, eq=False)
class WholeBatches:
    """The inputs of whole batches, and their labels.

    Attributes:
        batches: the sequence.
        spec: its name in messages.
        names: of the network's arguments, which tell inputs from labels in a tuple.
        n: the number of batches in a pass.
        goes_on: whether a pass has more than these.
    """

    batches: Stream | Fixed
    spec: str
    names: Names
    n: int
    goes_on: bool = False

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
        x, labels = inputs_of(self.batches.at(index), self.names, f"batch {index} of {self.spec}")
        return _as_numbers(x), _as_numbers(labels)


def inputs_of(batch: Any, names: Names, where: str) -> tuple[Any, Any]:
    """What a network takes of a batch, and its labels, `None` if there are none.

    A pair is inputs and labels, unless the network must be given two. A longer tuple is all inputs if the network takes
    as many; the last is labels if it takes one less. The labels of a graph are its `y`.

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
    return batch, _labels_of_graph(fields_of(batch))


def _labels_of_graph(fields: Mapping[str, Any]) -> Any:
    labels = fields.get("y")
    mask = fields.get("train_mask")
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


def read_stream(loader: DataLoader[Any], *, spec: str, limit: int | None, path: Path | None, labelled: bool) -> Samples:
    """The batches of a DataLoader as they come."""
    return whole_samples(Stream(loader, spec, limit, path), spec, labelled=labelled)


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


def with_arguments(found: Samples, network: Any) -> Samples:
    """Whole batches for a network, whose arguments tell the inputs and the labels in a tuple apart."""
    if not isinstance(found.source, WholeBatches):
        return found
    return _with_labels(replace(found, source=replace(found.source, names=argument_names(network))))


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

"""Sequences of batches without an end: those of a DataLoader as they come, pass after pass, or some in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ntt_cli.data.bundle import tensors_within
from ntt_cli.errors import DataError
from ntt_cli.runtime.python_source import user_code
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws, seeded

COUNTED = 4096
"""The most batches of a loader without a length that are counted; after that, it goes on."""

KEPT_BATCHES, KEPT_BYTES = 64, 2**28
"""The first batches are kept, because checks read them many times: at most so many, in this memory."""

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

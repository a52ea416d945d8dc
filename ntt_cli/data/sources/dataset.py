"""The items of a torch Dataset: in memory if they never change and fit, otherwise read whenever needed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ntt_cli.config import DataOptions, Split
from ntt_cli.data import samples
from ntt_cli.data.batch import Batch, map_batch, rebuilt, same, stack, tensors_of
from ntt_cli.data.convert import (
    SEVERAL,
    WITHOUT_LABELS,
    CannotJoinError,
    as_batch,
    as_labels,
    inputs_and_labels,
    kind_of,
    refuse_mask,
    type_and_shape,
)
from ntt_cli.data.images import format_batch
from ntt_cli.data.samples import Changes, InMemory, InputSource, Reading, Samples, draw, refuse_workers
from ntt_cli.data.sources.class_names import class_names
from ntt_cli.data.sources.image_files import GRAY_MODES, image_pixels
from ntt_cli.data.sources.unequal import unequal_samples
from ntt_cli.errors import DataError
from ntt_cli.files.free_memory import require_memory
from ntt_cli.runtime.python_source import user_code
from ntt_cli.runtime.seeding import global_draws_apart, global_state, seed_global_draws
from ntt_cli.runtime.workers import WorkerPool

READ_AT_ONCE = 1024
"""The items that worker processes are asked for at a time."""

Label = int | Tensor | tuple[Tensor, ...] | dict[str, Tensor]

PROBED = 16
"""Items to read several times, to find out whether they are random, and to check for attention masks."""


@dataclass(frozen=True, eq=False)
class DatasetItems:
    """The items of a map-style Dataset, or of a list. Each item is an input, or a pair of an input and a label.

    An input may be a dict or a tuple of several; a dict may hold the label.

    `path` is the file that made it; `None` if a caller passed it, whose exceptions then stay unchanged.
    """

    dataset: Dataset[Any] | list[Any]
    spec: str
    options: DataOptions
    labelled: bool
    path: Path | None = None

    def running_code(self) -> AbstractContextManager[None]:
        """A context for reading items: an exception of the file's code becomes an error that names the file."""
        return nullcontext() if self.path is None else user_code(self.path, DataError)

    @property
    def where(self) -> str:
        """The words after an item's number in an error, if the user named a file with a Dataset; otherwise empty."""
        return "" if self.path is None else " of its Dataset"

    def read(self, i: int, *, like: Batch | None = None, reading: Reading | None = None) -> tuple[Batch, Label | None]:
        """Input `i`, images still as uint8 `[c, h, w]`, and its label if it has one and labels are read.

        Random items are drawn for this `reading`; without one, from the global generators in their current state.

        Raises:
            CannotJoinError: if the item is neither an input nor a pair, or differs from `like` in shape or type.
        """
        if reading is not None:
            seed_global_draws(*(reading or (0,)), i)
        x, *label = self.parts(i)
        x = self._input(i, x)
        if like is not None and type_and_shape(x) != type_and_shape(like):
            what = f"input {i}{self.where} is {type_and_shape(x)}, others are {type_and_shape(like)}"
            hint = "bring them to one shape and type: images by --image-size, sequences by padding"
            raise CannotJoinError(self.spec, what, hint=hint)
        return x, self._label(i, label[0]) if label and self.labelled else None

    def parts(self, i: int) -> list[Any]:
        """Item `i`: an input, and a label if it has one."""
        try:
            item = self.dataset[i]
        except IndexError as failure:
            if self.path is None:
                raise
            assert is_map_style(self.dataset)
            what = f"item {i} of its Dataset, which by its __len__ has {len(self.dataset):,}, raised {failure!r}"
            hint = "let __len__ return how many items there are; --debug shows the traceback"
            raise DataError(self.spec, what, hint=hint) from failure
        if isinstance(item, tuple | list) and len(item) not in {1, 2}:
            what = f"item {i}{self.where} has {len(item)} parts"
            raise CannotJoinError(self.spec, what, hint=f"return x or (x, y) from __getitem__; {SEVERAL}")
        if isinstance(item, tuple | list) and len(item) == 1:
            item = item[0]
        inputs, label, _ = inputs_and_labels(item, self.spec)
        return [inputs] if label is None else [inputs, label]

    def labels_name(self, i: int) -> str | None:
        """The key of the label in an item that is a dict."""
        item = self.dataset[i]
        return inputs_and_labels(item, self.spec)[2] if isinstance(item, Mapping) else None

    def _input(self, i: int, raw: object) -> Batch:
        if isinstance(raw, dict | tuple) and raw:
            values = raw.values() if isinstance(raw, dict) else raw
            one: Any = rebuilt(raw, [self._array(i, value, several=True)[None] for value in values])
        else:
            one = self._array(i, raw)[None]
        x = as_batch(one, self.spec, numbers=torch.tensor([i]))
        formatted: Batch = map_batch(lambda part: part[0], format_batch(x, self.options, self.spec))
        return formatted

    def _array(self, i: int, raw: object, *, several: bool = False) -> Any:
        """One input as an array without an axis that counts samples; among several, it may be numbers in a list."""
        if isinstance(raw, Image.Image):
            return image_pixels(raw, "L" if raw.mode in GRAY_MODES else "RGB")
        if several and isinstance(raw, int | float | list):
            with suppress(ValueError):  # of lists of unequal lengths
                raw = np.asarray(raw)
        if isinstance(raw, Tensor | np.ndarray) and (several or raw.ndim > 0):
            return raw
        what = f"input {i}{self.where} is {kind_of(raw)}, not a tensor, an array or an image"
        hint = f"return such an x, or (x, y), from __getitem__; {SEVERAL}"
        raise CannotJoinError(self.spec, what, hint=hint)

    def _label_of_several(self, i: int, raw: Any) -> Tensor:
        if isinstance(raw, Tensor) and raw.ndim:
            return raw  # such as the classes of boxes, of which there may be a single one
        return torch.as_tensor(raw if isinstance(raw, np.ndarray) and raw.ndim else self._label(i, raw))

    def _label(self, i: int, raw: Any) -> Label:
        if isinstance(raw, dict | tuple) and raw:  # several labels, for a loss of the user's own
            values = raw.values() if isinstance(raw, dict) else raw
            several: Label = rebuilt(raw, [self._label_of_several(i, value) for value in values])
            return several
        with suppress(TypeError):
            return operator.index(raw)
        if isinstance(raw, float | Tensor | np.ndarray | np.generic):
            with suppress(TypeError):  # an array of objects or words
                return torch.as_tensor(raw)
        what = (
            f"the label of item {i}{self.where} is {repr(raw):.99}, not a whole number, a number or an array of numbers"
        )
        raise DataError(self.spec, what, hint=f"return the number of the class as y; {WITHOUT_LABELS}")


@dataclass(frozen=True, eq=False)
class LazyItems:
    """Inputs of a Dataset that is random or too large for memory; each fetch reads them again."""

    items: DatasetItems
    numbers: Tensor
    """The indices of the items that are used."""
    like: Batch
    """One of the inputs."""
    labels: Batch | None
    """Of all items when first read; `None` if labels are not read."""
    changes: Changes

    def __len__(self) -> int:
        return len(self.numbers)

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Batch:
        return self.read(indices, reading)[0]

    def read(self, indices: Tensor, reading: Reading = ()) -> tuple[Batch, Any]:
        """The inputs of these items, and their labels in the same reading."""
        rows = self.pool.map([(row, reading) for row in indices.tolist()])
        labels = None if self.labels is None else _stacked([label for _, label in rows], self.items.spec)
        return stack([x for x, _ in rows]), labels

    @cached_property
    def pool(self) -> WorkerPool:
        """Reads the items of these rows, each for its reading."""
        without_pool = replace(self)

        def read(request: tuple[int, Reading]) -> tuple[Batch, Any]:
            with global_draws_apart(), without_pool.items.running_code():
                return without_pool._read(*request)

        return WorkerPool(read, self.items.options.workers, self.items.spec)

    def _read(self, row: int, reading: Reading) -> tuple[Batch, Any]:
        i = int(self.numbers[row])
        x, label = self.items.read(i, like=self.like, reading=None if self.changes == "never" else reading)
        moves = self.changes != "never" and not isinstance(label, int)
        if isinstance(self.labels, Tensor) and not moves and not _is_label(label, self.labels[row]):
            now, before = (repr(torch.as_tensor(value).tolist()) for value in (label, self.labels[row]))
            what = f"item {i}{self.items.where} has label {now:.99} now, and had {before:.99} before"
            raise DataError(self.items.spec, what, hint="let an item have the same label whenever it is read")
        return x, label


def read_dataset(items: DatasetItems, *, split: Split | None = None, among: Tensor | None = None) -> Samples:
    """The samples of a Dataset; of the items whose indices are `among` these, which are ascending, if that is given.

    A few items are read several times. All items are read here if they are kept in memory or have labels.

    Raises:
        DataError: if it is not a map-style Dataset, is empty, or has an unusable item.
        CannotJoinError: if items `among` these cannot be joined; without these, they are taken by their shapes.
    """
    kind, given = type(items.dataset).__name__, "give" if items.path is None else "return"
    if not is_map_style(items.dataset):
        what = "is an IterableDataset, which has no items by number" if hasattr(items.dataset, "__iter__") else ""
        hint = f"{given} a map-style Dataset, with __len__ and __getitem__"
        if what and items.path is None:
            hint += ", or a DataLoader over this one, whose batches are kept in memory"
        raise DataError(items.spec, f"its {kind} {what or 'has no length'}", hint=hint)
    with global_draws_apart(), items.running_code():
        n = len(items.dataset if among is None else among)
        if n == 0:
            raise DataError(items.spec, "its Dataset is empty", hint=f"{given} one that has items")
        require_memory(items.spec, 8 * n, error=DataError, hint=f"{given} a Dataset with fewer items")
        chosen = draw(n, items.options.limit)
        numbers = chosen if among is None else among[chosen]
        try:
            changes = _changes(items, numbers)
            source, labels = _read_all(items, numbers, changes)
        except CannotJoinError:
            if among is not None:
                raise
            return replace(_read_unequal(items, numbers), split=split)
        if source is None:  # some items are random, although the tested ones are not
            changes = "seeded"
            source, labels = _read_all(items, numbers, changes)
        if isinstance(source, InMemory) and _have_changed(items, numbers, source.values):
            changes = "always"
            source, labels = _read_all(items, numbers, changes)
        named = items.labels_name(int(numbers[0]))
    assert source is not None
    names = class_names(items.dataset, items.spec) if labels is not None else None
    found = Samples(items.spec, source, labels, names, split=split, changes=changes, labels_name=named)
    moving = isinstance(source, LazyItems) and changes != "never" and labels is not None
    return replace(found, labels_read=moving and not (isinstance(labels, Tensor) and labels.ndim == 1))


def is_map_style(dataset: object) -> TypeGuard[Sized]:
    """Whether a value has a length, and items by index."""
    return hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


def _changes(items: DatasetItems, numbers: Tensor) -> Changes:
    """Whether items differ between readings: tests some of them, by their values and by the generators they use."""
    some = numbers[torch.linspace(0, len(numbers) - 1, min(PROBED, len(numbers)), dtype=torch.float64).long()].tolist()
    refuse_mask([parts for i in some if len(parts := items.parts(i)) == 2], items.spec)
    first_input, _ = items.read(some[0], reading=())

    def read(reading: Reading) -> Batch:
        batch: Batch = stack([items.read(i, like=first_input, reading=reading)[0] for i in some])
        return batch

    first = read(())
    if same(first, read((0, 1))) and not _draws(items, some):
        return "never"
    return "seeded" if same(first, read(())) else "always"


def _read_unequal(items: DatasetItems, numbers: Tensor) -> Samples:
    def read(i: int) -> tuple[Batch, Any]:
        with items.running_code():
            return items.read(i)

    refuse_workers(items.options, items.spec, "items of unequal shapes are read by this process")
    return unequal_samples(read, numbers, spec=items.spec, labelled=items.labelled)


def _have_changed(items: DatasetItems, numbers: Tensor, kept: Batch) -> bool:
    """Whether items that were read first have changed after all were read, as in a Dataset that counts calls."""
    rows = range(min(PROBED, len(numbers)))
    for row in rows:
        before = rebuilt(kept, [part[row] for part in tensors_of(kept)])
        if not same(before, items.read(int(numbers[row]), like=before)[0]):
            return True
    return False


def _draws(items: DatasetItems, some: list[int]) -> bool:
    before = global_state()
    for i in some:
        items.read(i)
    return global_state() != before


def _read_all(items: DatasetItems, numbers: Tensor, changes: Changes) -> tuple[InputSource | None, Batch | None]:
    # The inputs, in memory if they fit and never change, and the labels. No inputs if they unexpectedly changed.
    one, _ = items.read(int(numbers[0]), reading=())
    kept = None
    size = sum(part.nbytes for part in tensors_of(one))
    if changes == "never" and size * len(numbers) <= samples.EAGER_BYTES:
        kept = map_batch(lambda part: torch.empty((len(numbers), *part.shape), dtype=part.dtype), one)
    elif not items.labelled:
        return LazyItems(items, numbers, one, None, changes), None
    labels: list[Label] = []
    before = global_state()
    reading = None if changes == "never" else ()
    drew = False
    for row, (i, (x, label, draws)) in enumerate(_each(items, numbers, one, reading)):
        drew |= draws
        if kept is not None:
            for whole, part in zip(tensors_of(kept), tensors_of(x), strict=True):
                whole[row] = part
        if label is not None:
            labels.append(label)
        if items.labelled and len(labels) not in {0, row + 1}:
            has = "no label" if label is None else "a label"
            raise DataError(items.spec, f"item {i}{items.where} has {has}, unlike others", hint="label all or none")
    if changes == "never" and (drew or global_state() != before):
        return None, None
    y = _stacked(labels, items.spec) if labels else None
    return InMemory(kept) if kept is not None else LazyItems(items, numbers, one, y, changes), y


def _is_label(label: Any, kept: Tensor) -> bool:
    now = torch.as_tensor(label)
    return now.numel() == kept.numel() and torch.equal(now.detach().cpu().to(kept.dtype).reshape(kept.shape), kept)


def _each(
    items: DatasetItems, numbers: Tensor, like: Batch, reading: Reading | None
) -> Iterator[tuple[int, tuple[Batch, Any, bool]]]:
    """The items by their numbers, and whether each drew a random number in a worker process."""
    if not items.options.workers:
        yield from ((i, (*items.read(i, like=like, reading=reading), False)) for i in numbers.tolist())
        return

    def read(i: int) -> tuple[Batch, Any, bool]:
        before = global_state()
        with items.running_code():
            x, label = items.read(i, like=like, reading=reading)
        return x, label, reading is None and global_state() != before

    pool = WorkerPool(read, items.options.workers, items.spec)
    for part in numbers.split(READ_AT_ONCE):
        yield from zip(part.tolist(), pool.map(part.tolist()), strict=True)


def _stacked(labels: list[Any], spec: str) -> Any:
    """Labels of all items, of one shape; of several labels, each."""
    if isinstance(labels[0], dict | tuple):
        kinds = [(type(label), list(label) if isinstance(label, dict) else len(label)) for label in labels]
        if kinds.count(kinds[0]) < len(kinds):
            raise CannotJoinError(
                spec, "has labels with other parts than others", hint="give all labels the same parts"
            )
        parts = zip(*map(tensors_of, labels), strict=True)
        return rebuilt(labels[0], [_stacked(list(part), spec) for part in parts])
    if all(isinstance(label, int) for label in labels):
        return as_labels(np.asarray(labels), spec, n=len(labels))
    tensors = [torch.as_tensor(label).detach().cpu() for label in labels]
    if other := [one for one in tensors if one.shape != tensors[0].shape]:
        what = f"has labels {type_and_shape(tensors[0])} and {type_and_shape(other[0])}"
        raise CannotJoinError(spec, what, hint="bring all labels to one shape")
    joined = torch.stack(tensors)
    return as_labels(joined.long() if joined.dtype == torch.bool else joined, spec, n=len(labels))

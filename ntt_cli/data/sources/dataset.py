"""The items of a torch Dataset: in memory if they never change and fit, otherwise read whenever needed."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
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
    as_batch,
    as_labels,
    inputs_and_labels,
    kind_of,
    refuse_mask,
    type_and_shape,
)
from ntt_cli.data.images import format_batch
from ntt_cli.data.samples import Changes, InMemory, InputSource, Reading, Samples, draw
from ntt_cli.data.sources.image_files import GRAY_MODES, image_pixels
from ntt_cli.errors import DataError
from ntt_cli.files.free_memory import require_memory
from ntt_cli.runtime.python_source import user_code
from ntt_cli.runtime.seeding import global_draws_apart, global_state, seed_global_draws

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

    def read(
        self, i: int, *, like: Batch | None = None, reading: Reading | None = None
    ) -> tuple[Batch, int | Tensor | None]:
        """Input `i`, images still as uint8 `[c, h, w]`, and its label if it has one and labels are read.

        Random items are drawn for this `reading`; without one, from the global generators in their current state.

        Raises:
            DataError: if the item is neither an input nor a pair, or the input differs from `like` in shape or type.
        """
        if reading is not None:
            seed_global_draws(*(reading or (0,)), i)
        x, *label = self.parts(i)
        x = self._input(i, x)
        if like is not None and type_and_shape(x) != type_and_shape(like):
            what = f"input {i}{self.where} is {type_and_shape(x)}, others are {type_and_shape(like)}"
            hint = "bring them to one shape and type: images by --image-size, sequences by padding"
            raise DataError(self.spec, what, hint=hint)
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
            raise DataError(self.spec, what, hint=f"return x or (x, y) from __getitem__; {SEVERAL}")
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
        raise DataError(self.spec, what, hint=hint)

    def _label(self, i: int, raw: Any) -> int | Tensor:
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
    labels: Tensor | None
    """Of all items when first read; `None` if labels are not read."""
    changes: Changes

    def __len__(self) -> int:
        return len(self.numbers)

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Batch:
        with global_draws_apart(), self.items.running_code():
            batch: Batch = stack([self._read(row, reading) for row in indices.tolist()])
        return batch

    def _read(self, row: int, reading: Reading) -> Batch:
        i = int(self.numbers[row])
        x, label = self.items.read(i, like=self.like, reading=None if self.changes == "never" else reading)
        if self.labels is not None and not _is_label(label, self.labels[row]):
            now, before = (repr(torch.as_tensor(value).tolist()) for value in (label, self.labels[row]))
            what = f"item {i}{self.items.where} has label {now:.99} now, and had {before:.99} before"
            raise DataError(self.items.spec, what, hint="let an item have the same label whenever it is read")
        return x


def read_dataset(items: DatasetItems, *, split: Split | None = None, among: Tensor | None = None) -> Samples:
    """The samples of a Dataset; of the items whose indices are `among` these, which are ascending, if that is given.

    A few items are read several times. All items are read here if they are kept in memory or have labels.

    Raises:
        DataError: if it is not a map-style Dataset, is empty, or has an unusable item.
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
        changes = _changes(items, numbers)
        source, labels = _read_all(items, numbers, changes)
        if source is None:  # some items are random, although the tested ones are not
            changes = "seeded"
            source, labels = _read_all(items, numbers, changes)
        if isinstance(source, InMemory) and _have_changed(items, numbers, source.values):
            changes = "always"
            source, labels = _read_all(items, numbers, changes)
        named = items.labels_name(int(numbers[0]))
    assert source is not None
    names = _class_names(items.dataset, items.spec) if labels is not None else None
    return Samples(items.spec, source, labels, names, split=split, changes=changes, labels_name=named)


def is_map_style(dataset: object) -> TypeGuard[Sized]:
    """Whether a value has a length, and items by index."""
    return hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


def _class_names(dataset: object, spec: str) -> tuple[str, ...] | None:
    # Names in the order of their labels, from `classes` or `class_to_idx` as in torchvision's data sets. A `Subset` has
    # the names of its Dataset. A `ConcatDataset` has names if all of its Datasets have the same.
    for attribute in ("classes", "class_to_idx"):
        if (names := _as_names(getattr(dataset, attribute, None))) is not None:
            return names
    if (within := getattr(dataset, "dataset", None)) is not None:
        return _class_names(within, spec)
    joined = getattr(dataset, "datasets", None)
    if not isinstance(joined, list | tuple):
        return None
    found = {_class_names(one, spec) for one in joined}
    if len(named := [names for names in found if names is not None]) > 1:
        first, second, *_ = sorted(named)
        what = f"joins Datasets whose labels mean different classes: {', '.join(first)} and {', '.join(second)}"
        raise DataError(spec, what, hint="number the classes of all of them in one order")
    return found.pop() if len(found) == 1 else None


def _as_names(given: object) -> tuple[str, ...] | None:
    """Names from a sequence by label, or from a mapping of names to labels or labels to names."""
    if isinstance(given, Mapping):
        pairs = [pair if isinstance(pair[0], str) else pair[::-1] for pair in given.items()]
        by_label = {label: name for name, label in pairs}
        if set(by_label) != set(range(len(given))):
            return None
        given = [by_label[label] for label in range(len(given))]
    names = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None


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


def _read_all(items: DatasetItems, numbers: Tensor, changes: Changes) -> tuple[InputSource | None, Tensor | None]:
    # The inputs, in memory if they fit and never change, and the labels. No inputs if they unexpectedly changed.
    one, _ = items.read(int(numbers[0]), reading=())
    kept = None
    size = sum(part.nbytes for part in tensors_of(one))
    if changes == "never" and size * len(numbers) <= samples.EAGER_BYTES:
        kept = map_batch(lambda part: torch.empty((len(numbers), *part.shape), dtype=part.dtype), one)
    elif not items.labelled:
        return LazyItems(items, numbers, one, None, changes), None
    labels: list[int | Tensor] = []
    before = global_state()
    for row, i in enumerate(numbers.tolist()):
        x, label = items.read(i, like=one, reading=None if changes == "never" else ())
        if kept is not None:
            for whole, part in zip(tensors_of(kept), tensors_of(x), strict=True):
                whole[row] = part
        if label is not None:
            labels.append(label)
        if items.labelled and len(labels) not in {0, row + 1}:
            has = "no label" if label is None else "a label"
            raise DataError(items.spec, f"item {i}{items.where} has {has}, unlike others", hint="label all or none")
    if changes == "never" and global_state() != before:
        return None, None
    y = _stacked(labels, items.spec) if labels else None
    return InMemory(kept) if kept is not None else LazyItems(items, numbers, one, y, changes), y


def _is_label(label: int | Tensor | None, kept: Tensor) -> bool:
    now = torch.as_tensor(label)
    return now.numel() == kept.numel() and torch.equal(now.detach().cpu().to(kept.dtype).reshape(kept.shape), kept)


def _stacked(labels: list[int | Tensor], spec: str) -> Tensor:
    """Labels of all items, of one shape."""
    if all(isinstance(label, int) for label in labels):
        return as_labels(np.asarray(labels), spec, n=len(labels))
    tensors = [torch.as_tensor(label).detach().cpu() for label in labels]
    if other := [one for one in tensors if one.shape != tensors[0].shape]:
        what = f"has labels {type_and_shape(tensors[0])} and {type_and_shape(other[0])}"
        raise DataError(spec, what, hint="bring all labels to one shape")
    joined = torch.stack(tensors)
    return as_labels(joined.long() if joined.dtype == torch.bool else joined, spec, n=len(labels))

"""A torch DataLoader: its samples, drawn anew, or its batches as they come if they cannot be divided into samples."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, default_collate

from ntt_cli.config import DataOptions
from ntt_cli.data import samples
from ntt_cli.data.convert import (
    SEVERAL,
    CannotJoinError,
    bytes_as_inputs,
    count_batch,
    kind_of,
    refuse_mask,
    type_and_shape,
)
from ntt_cli.data.samples import Samples, refuse_workers
from ntt_cli.data.sources.arrays import from_pair
from ntt_cli.data.sources.batches import whole_samples
from ntt_cli.data.sources.dataset import PROBED, DatasetItems, is_map_style, read_dataset
from ntt_cli.data.sources.streams import Stream
from ntt_cli.errors import DataError
from ntt_cli.runtime.python_source import user_code

MOST_BATCHES = 2**14
"""A stream with more batches is not read into memory."""

_END: Any = object()

MOST_ROUNDS = 100
"""A sampler counts as endless if it yields this many times as many indices as there are items."""


def read_loader(
    loader: DataLoader[Any], options: DataOptions, *, labelled: bool, spec: str | None = None, path: Path | None = None
) -> Samples:
    """The samples of a DataLoader, read one by one without its batches; or its batches as they come.

    Batches are taken as they come if they cannot be divided and joined, if a stream does not fit into memory, and with
    `batch_size=None`, where an item may be a batch.

    Raises:
        DataError: if it has no usable samples and no usable batches.
    """
    if not hasattr(loader.dataset, "__iter__") and not is_map_style(loader.dataset):
        hint = "give its Dataset a __len__, or give a tensor of all samples"
        raise DataError(spec or "a DataLoader", f"its {type(loader.dataset).__name__} has no length", hint=hint)
    try:
        if isinstance(loader.dataset, IterableDataset):
            refuse_workers(options, spec or "a DataLoader", "its stream is read by this process")
            return _read_batches(loader, options, labelled=labelled, spec=spec, path=path)
        if loader.batch_sampler is not None:
            return _read_items(loader, options, labelled=labelled, spec=spec, path=path)
    except CannotJoinError:
        pass
    refuse_workers(options, spec or "a DataLoader", "it has a num_workers of its own, for its own batches")
    stream = Stream(loader, spec or "a DataLoader", options.limit, path)
    return whole_samples(stream, spec or "a DataLoader", labelled=labelled)


def _read_items(
    loader: DataLoader[Any], options: DataOptions, *, labelled: bool, spec: str | None, path: Path | None
) -> Samples:
    dataset: Any = loader.dataset
    numbers = _sampled(loader, len(dataset))
    spec = spec or counted("DataLoader", len(numbers))
    if loader.collate_fn is not default_collate:
        dataset = Collated(dataset, loader.collate_fn, spec)
    return read_dataset(DatasetItems(dataset, spec, options, labelled, path), among=numbers)


@dataclass(frozen=True, eq=False)
class Collated(Dataset[Any]):
    """Items after a collate function: each is collated as a batch of one, and the first axis is removed."""

    dataset: Any
    collate: Callable[[list[Any]], Any]
    spec: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Any, ...] | dict[str, Any]:
        batch = self.collate([self.dataset[i]])
        if isinstance(batch, Mapping) and all(map(_holds_one, batch.values())):
            return {name: part[0] for name, part in batch.items()}
        parts = batch if isinstance(batch, tuple | list) else [batch]
        if not parts or not _holds_one(parts[0]):
            what = f"its collate_fn makes of item {i} alone {kind_of(batch)}, of which no first axis counts one sample"
            raise CannotJoinError(self.spec, what, hint=f"return a batch x, or (x, y), from collate_fn; {SEVERAL}")
        return tuple(part[0] if _holds_one(part) else part for part in parts)  # labels may be anything at this point


def _holds_one(part: object) -> bool:
    if isinstance(part, Tensor | np.ndarray):
        return part.shape[:1] == (1,)
    return isinstance(part, tuple | list) and len(part) == 1


def _sampled(loader: DataLoader[Any], n: int) -> Tensor:
    # The indices that the loader's sampler yields among `n` items, each once, ascending.
    hint = "give torch.utils.data.Subset(dataset, indices), or a DataLoader of that without a sampler"
    batches, shared = loader.batch_sampler, [loader.dataset]
    # Only the items in batches matter; `drop_last` would leave out a few.
    sampler: Any = batches.sampler if type(batches) is BatchSampler else batches
    shared += [value for value in getattr(sampler, "__dict__", {}).values() if isinstance(value, Dataset)]
    try:
        # A copy, with its own state and generators; the data itself need not be copied.
        sampler = copy.deepcopy(sampler, {id(value): value for value in shared})
    except Exception as failure:
        what = f"its sampler cannot be copied, and would not be left as it is: {type(failure).__name__}: {failure}"
        raise DataError("a DataLoader", what, hint=hint) from failure
    yielded = sampler if type(batches) is BatchSampler else chain.from_iterable(sampler)
    seen: set[int] = set()
    for count, index in enumerate(yielded):
        try:
            number = operator.index(index)
        except TypeError:
            number = -1
        if not 0 <= number < n:
            what = f"its sampler yields {index!r:.99}, which is no number of one of {n:,} items"
            raise DataError("a DataLoader", what, hint=hint)
        seen.add(number)
        if len(seen) == n:
            break
        if count >= MOST_ROUNDS * n:
            what = f"its sampler has yielded {count:,} indices of {n:,} items, and does not end"
            raise DataError("a DataLoader", what, hint=hint)
    return torch.tensor(sorted(seen), dtype=torch.int64)


def _read_batches(
    loader: DataLoader[Any], options: DataOptions, *, labelled: bool, spec: str | None, path: Path | None
) -> Samples:
    # The samples of a DataLoader over an IterableDataset, in memory, because they have no numbers to read them by.
    named, size, n = spec, 0, 0
    spec = spec or "a DataLoader"
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    pairs: list[list[Any]] = []
    for number, batch in enumerate(_batches(loader, path)):
        parts = list(batch) if isinstance(batch, tuple | list) else [batch]
        if len(parts) not in {1, 2} or not isinstance(parts[0], Tensor | np.ndarray):
            hint = "let it yield batches x, or (x, y)"
            raise CannotJoinError(spec, f"its batch {number} is {kind_of(batch)}", hint=hint)
        x = _as_tensor(parts[0], f"batch {number} holds inputs", spec)
        n += count_batch(x, spec)
        inputs.append(x)
        if len(parts) == 2 and number < PROBED:
            pairs.append(parts)
        if len(parts) == 2 and labelled:
            y = _as_tensor(parts[1], f"batch {number} holds labels", spec)
            if y.shape[:1] != x.shape[:1]:
                what = f"its batch {number} holds inputs of shape {list(x.shape)} and labels of shape {list(y.shape)}"
                hint = "let each batch hold one label for each input, and give a batch_size"
                raise CannotJoinError(spec, what, hint=hint)
            labels.append(y)
        if len(labels) not in {0, number + 1}:
            has = "no labels" if len(parts) == 1 else "labels"
            raise DataError(spec, f"its batch {number} has {has}, unlike others", hint="label all or none")
        size += bytes_as_inputs(x)
        if size > samples.EAGER_BYTES or number >= MOST_BATCHES:
            raise CannotJoinError(spec, "does not fit into memory", hint="its batches are taken as they come")
    if not inputs:
        raise DataError(spec, "yields no batches", hint="give one that has samples; an iterator is used up by one pass")
    refuse_mask(pairs, spec)
    joined = _joined(labels, "labels", spec) if labels else None
    spec = named or counted("DataLoader", n)
    return from_pair(_joined(inputs, "inputs", spec), joined, spec=spec, options=options, labelled=labelled)


def _batches(loader: DataLoader[Any], path: Path | None) -> Iterator[Any]:
    # The loader's batches, without workers. The loader's own iterator would draw from its generator.
    collate: Callable[[Any], Any] = loader.collate_fn

    def running_code() -> AbstractContextManager[None]:
        return nullcontext() if path is None else user_code(path, DataError)

    def joined(batch: Any) -> Any:
        try:
            return collate(batch)
        except (RuntimeError, TypeError) as failure:
            if collate is not default_collate:
                raise
            hint = "give it a collate_fn"
            raise CannotJoinError("a DataLoader", f"cannot join its items: {failure}", hint=hint) from failure

    with running_code():
        items = iter(loader.dataset)
    while True:
        with running_code():
            if loader.batch_size is None:  # each item is a batch
                item = next(items, _END)
                made = item if item is _END else joined(item)
            else:
                batch = list(islice(items, loader.batch_size))
                whole = len(batch) == loader.batch_size or (batch and not loader.drop_last)
                made = joined(batch) if whole else _END
        if made is _END:
            return
        yield made


def _as_tensor(values: object, what: str, spec: str) -> Tensor:
    # A copy: a stream may write all of its batches into the same memory.
    try:
        return torch.as_tensor(values).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as failure:
        raise DataError(spec, f"{what} that are {kind_of(values)}", hint="let them be tensors of numbers") from failure


def _joined(parts: list[Tensor], what: str, spec: str) -> Tensor:
    first = type_and_shape(parts[0][0])
    for number, part in enumerate(parts):
        if (kind := type_and_shape(part[0])) != first:
            hint = "bring all samples to one shape and type"
            raise CannotJoinError(spec, f"batch {number} holds {what} {kind}, others are {first}", hint=hint)
    return torch.cat(parts)


def counted(kind: str, n: int) -> str:
    return f"a {kind} of {n:,} sample{'s' * (n != 1)}"

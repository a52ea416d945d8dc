"""Data that a caller of the Python functions passes as an object: tensors, arrays, a Dataset or a DataLoader."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, default_collate

from ntt_cli.config import DataOptions
from ntt_cli.data import samples
from ntt_cli.data.batch import described, tensors_of
from ntt_cli.data.convert import (
    SEVERAL,
    Raw,
    bytes_as_inputs,
    count_batch,
    inputs_and_labels,
    is_raw,
    kind_of,
    refuse_mask,
    type_and_shape,
)
from ntt_cli.data.samples import Samples
from ntt_cli.data.sources.arrays import from_pair
from ntt_cli.data.sources.dataset import PROBED, DatasetItems, is_map_style, read_dataset
from ntt_cli.errors import DataError
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws

TAKEN = "give a tensor or an array of inputs, a pair (inputs, labels) of them, a torch Dataset or a DataLoader"

MOST_ROUNDS = 100
"""A sampler counts as endless if it yields this many times as many indices as there are items."""


def samples_of(data: object, *, options: DataOptions, labelled: bool) -> Samples:
    """The samples of an object that a caller passes; samples are returned as they are.

    The network takes the inputs as they are, unless `options` say how to normalise them; uint8 images are scaled to
    [0, 1]. Tensors may share memory with the caller's. Global generators stay unchanged, and so do a DataLoader's
    generator and sampler. No worker process is started. A DataLoader's samples are read one by one, in the order of its
    dataset and without its batches. Labels may be anything if they are not read.

    Raises:
        DataError: if it is something else or unusable. Exceptions of the caller's own code stay unchanged.
    """
    if isinstance(data, Samples):
        return data
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # its generators are seeded too
    with torch.random.fork_rng(gpus), global_draws_apart():
        seed_global_draws(0)  # so that a random sampler always draws the same subset
        found = _read(data, options, labelled=labelled)
    return replace(found, normalised=options.mean is None and options.std is None)


def _read(data: object, options: DataOptions, *, labelled: bool) -> Samples:
    if isinstance(data, DataLoader):
        return _read_loader(data, options, labelled=labelled)
    if isinstance(data, Dataset):
        spec = _counted("Dataset", len(data)) if is_map_style(data) else "a Dataset"
        return read_dataset(DatasetItems(data, spec, options, labelled))
    if isinstance(data, list) and data and isinstance(data[0], Mapping):  # its items are samples
        return read_dataset(DatasetItems(data, _counted("list", len(data)), options, labelled))
    inputs, labels, labels_name = inputs_and_labels(data, "data")
    if is_raw(inputs):
        found = _read_pair(inputs, labels, options, labelled=labelled)
        return replace(found, labels_name=labels_name)
    hint = TAKEN
    if isinstance(data, tuple | Mapping):
        hint += f"; {SEVERAL}"
    elif isinstance(data, list) and data and isinstance(data[0], Tensor | np.ndarray):
        hint += ": torch.stack makes one tensor of a list of samples, which must be of one shape"
    raise DataError("data", f"is {kind_of(data)}", hint=hint)


def _read_pair(inputs: Raw, labels: object, options: DataOptions, *, labelled: bool) -> Samples:
    for value in (*tensors_of(inputs), labels):
        if isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_nested or value.is_meta):
            kind = "tensor on the meta device, which has no values" if value.is_meta else "sparse or nested tensor"
            raise DataError("data", f"holds a {kind}", hint="give dense tensors, such as x.to_dense()")
    kind = "a tensor" if isinstance(inputs, Tensor) else "an array"
    if isinstance(inputs, dict | tuple):
        spec = f"a {type(inputs).__name__} of {described(inputs):.300}"
    else:
        spec = f"{kind} {list(inputs.shape)}"
    spec += " with labels" * (labels is not None)
    return from_pair(inputs, labels, spec=spec, options=options, labelled=labelled)


def _read_loader(loader: DataLoader[Any], options: DataOptions, *, labelled: bool) -> Samples:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return _read_batches(loader, options, labelled=labelled)
    if not is_map_style(dataset):
        hint = "give its Dataset a __len__, or give a tensor of all samples"
        raise DataError("a DataLoader", f"its {type(dataset).__name__} has no length", hint=hint)
    if loader.batch_sampler is None:
        what = "has batch_size=None, so that an item of its Dataset may be a sample or a whole batch"
        hint = "give a DataLoader with a batch_size, the Dataset alone, or a tensor of all samples"
        raise DataError("a DataLoader", what, hint=hint)
    numbers = _sampled(loader, len(dataset))
    spec = _counted("DataLoader", len(numbers))
    if loader.collate_fn is not default_collate:
        dataset = Collated(dataset, loader.collate_fn, spec)
    return read_dataset(DatasetItems(dataset, spec, options, labelled), among=numbers)


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
            raise DataError(self.spec, what, hint=f"return a batch x, or (x, y), from collate_fn; {SEVERAL}")
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


def _read_batches(loader: DataLoader[Any], options: DataOptions, *, labelled: bool) -> Samples:
    # The batches of a DataLoader over an IterableDataset, in memory, because they can be read only once.
    spec, size, n = "a DataLoader", 0, 0
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    pairs: list[list[Any]] = []
    for number, batch in enumerate(_batches(loader)):
        parts = list(batch) if isinstance(batch, tuple | list) else [batch]
        if len(parts) not in {1, 2} or not isinstance(parts[0], Tensor | np.ndarray):
            hint = "let it yield batches x, or (x, y); several inputs need a map-style Dataset of dicts"
            raise DataError(spec, f"its batch {number} is {kind_of(batch)}", hint=hint)
        x = _as_tensor(parts[0], f"batch {number} holds inputs", spec)
        n += count_batch(x, spec)
        inputs.append(x)
        if len(parts) == 2 and number < PROBED:
            pairs.append(parts)
        if len(parts) == 2 and labelled:
            y = _as_tensor(parts[1], f"batch {number} holds labels", spec)
            if y.shape[:1] != x.shape[:1]:
                what = f"its batch {number} holds inputs of shape {list(x.shape)} and labels of shape {list(y.shape)}"
                raise DataError(spec, what, hint="let each batch hold one label for each input, and give a batch_size")
            labels.append(y)
        if len(labels) not in {0, number + 1}:
            has = "no labels" if len(parts) == 1 else "labels"
            raise DataError(spec, f"its batch {number} has {has}, unlike others", hint="label all or none")
        size += bytes_as_inputs(x)
        if size > samples.EAGER_BYTES:
            most = f"{samples.EAGER_BYTES / 2**30:.1f} GiB"
            what = f"holds more than {most} of inputs, and its IterableDataset is read once and kept in memory"
            hint = "give fewer samples, or a map-style Dataset, whose items are read as they are needed"
            raise DataError(spec, what, hint=hint)
    if not inputs:
        raise DataError(spec, "yields no batches", hint="give one that has samples; an iterator is used up by one pass")
    refuse_mask(pairs, spec)
    joined = _joined(labels, "labels", spec) if labels else None
    spec = _counted("DataLoader", n)
    return from_pair(_joined(inputs, "inputs", spec), joined, spec=spec, options=options, labelled=labelled)


def _batches(loader: DataLoader[Any]) -> Iterator[Any]:
    # The loader's batches, without workers. The loader's own iterator would draw from its generator.
    collate: Callable[[Any], Any] = loader.collate_fn
    items = iter(loader.dataset)
    if loader.batch_size is None:  # each item is a batch
        yield from map(collate, items)
        return
    while batch := list(islice(items, loader.batch_size)):
        if len(batch) == loader.batch_size or not loader.drop_last:
            yield collate(batch)


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
            raise DataError(spec, f"batch {number} holds {what} {kind}, others are {first}", hint=hint)
    return torch.cat(parts)


def _counted(kind: str, n: int) -> str:
    return f"a {kind} of {n:,} sample{'s' * (n != 1)}"

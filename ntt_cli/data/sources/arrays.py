"""Arrays in memory, and in .npy, .npz and .safetensors files. Nothing in files is ever unpickled."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib.format import open_memmap, read_array_header_1_0, read_array_header_2_0, read_magic
from torch import Tensor

from ntt_cli.config import DataOptions, Split
from ntt_cli.data import samples
from ntt_cli.data.batch import map_batch, select, tensors_of
from ntt_cli.data.convert import (
    WITHOUT_LABELS,
    Array,
    Raw,
    as_batch,
    as_inputs,
    as_labels,
    bytes_as_inputs,
    count_batch,
    count_samples,
    is_raw,
    refuse_mask,
)
from ntt_cli.data.images import format_batch, format_images
from ntt_cli.data.samples import PARTS, InMemory, Reading, Samples, Selection, draw
from ntt_cli.errors import CheckpointError, DataError
from ntt_cli.files.checkpoint import load_tensors
from ntt_cli.files.free_memory import require_memory
from ntt_cli.files.metadata import read_header

INPUT_NAMES = ("x", "inputs", "images")
LABEL_NAMES = ("y", "labels")
LARGEST = np.iinfo(np.int64).max

HEADERS = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
"""Header readers by format version. Version 3 is version 2 with field names in UTF-8."""


@dataclass(frozen=True, eq=False)
class MappedFile:
    """An array too large for memory; each fetch reads and checks only its own samples."""

    array: np.memmap[tuple[int, ...], np.dtype[np.generic]]
    where: str
    options: DataOptions

    def __len__(self) -> int:
        return len(self.array)

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Tensor:
        x = as_inputs(np.asarray(self.array[indices.numpy()]), self.where, numbers=indices)
        return format_images(x, self.options, self.where)


Labels = Array | Mapping[str, Array] | None
"""One label a sample, or several by name, for a loss of the user's own."""


def from_arrays(inputs: Raw, labels: Labels, *, spec: str, options: DataOptions, split: Split | None = None) -> Samples:
    """Samples from arrays in memory, checked at once."""
    for part in tensors_of(inputs):
        _refuse_fields(part, spec)
    n = count_batch(inputs, spec)
    y = _as_targets(labels, spec, n=n)
    chosen = draw(n, options.limit)
    # NumPy takes a tensor with one index for a number.
    used: Raw = inputs if len(chosen) == n else map_batch(lambda part: part[chosen.numpy()], inputs)
    hint = "save its inputs as a .npy file, which is read as it is needed, or as float32"
    size = sum(map(bytes_as_inputs, tensors_of(used)))
    require_memory(spec, size, error=DataError, hint=hint)
    source = InMemory(format_batch(as_batch(used, spec, numbers=chosen), options, spec))
    return Samples(spec, source, labels=None if y is None else select(y, chosen), split=split)


def _as_targets(labels: Labels, spec: str, *, n: int) -> Tensor | dict[str, Tensor] | None:
    if isinstance(labels, Mapping):
        return {name: as_labels(_as_numbers(part, spec), spec, n=n) for name, part in labels.items()}
    return None if labels is None else as_labels(_as_numbers(labels, spec), spec, n=n)


def from_pair(
    inputs: Raw, labels: object, *, spec: str, options: DataOptions, labelled: bool, split: Split | None = None
) -> Samples:
    """Samples from inputs in memory, with labels in an array, a list or a dict of arrays, or `None`.

    Labels may be left unread.

    Raises:
        DataError: if inputs or labels are unusable.
    """
    refuse_mask([(inputs, labels)], spec)
    if not labelled:
        return from_arrays(inputs, None, spec=spec, options=options, split=split)
    if isinstance(labels, (list, tuple)):
        labels = np.asarray(labels)
    if not is_raw(labels) and labels is not None:
        hint = f"make them an array of whole numbers; {WITHOUT_LABELS}"
        raise DataError(spec, f"has labels of type {type(labels).__name__}", hint=hint)
    return from_arrays(inputs, labels, spec=spec, options=options, split=split)  # type: ignore[arg-type]  # as checked


def read_npy(path: Path, *, spec: str, options: DataOptions) -> Samples:
    """Inputs without labels, from one array."""
    with _reading(spec):
        array = open_memmap(path, mode="r")
    _refuse_fields(array, spec)
    n = count_samples(array, spec)
    require_memory(spec, 4 * array.size // n, error=DataError, hint="cut its samples into smaller ones")
    chosen = draw(n, options.limit)
    if bytes_as_inputs(array) // n * len(chosen) <= samples.EAGER_BYTES:
        return from_arrays(array, None, spec=spec, options=options)
    mapped = MappedFile(array, spec, options)
    mapped.fetch(chosen[:1])  # report a wrong type now and not at the first batch
    return Samples(spec=spec, source=mapped if len(chosen) == n else Selection(mapped, chosen))


def read_npz(path: Path, *, spec: str, split: Split, options: DataOptions, labelled: bool = True) -> Samples:
    """Inputs, and labels where there are any, under the names in `INPUT_NAMES` and `LABEL_NAMES`."""
    with _reading(spec), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            hint = f"rename it to {path.with_suffix('.npy')}"
            raise DataError(spec, "is one array, not an archive of arrays", hint=hint)
        found = _pick(archive.files, spec, split, labelled=labelled)
        names = [found.inputs] if isinstance(found.inputs, str) else list(found.inputs.values())
        names += [found.labels] if isinstance(found.labels, str) else list((found.labels or {}).values())
        # A megabyte of zeros compresses to a kilobyte, so never unpack more of a member than it declares.
        hint = "save its inputs as a .npy file, which is read as it is needed"
        with ZipFile(file) as zipped:
            size = sum(_member_size(zipped, name, spec) for name in names)
        require_memory(spec, size, error=DataError, hint=hint)
        arrays = {name: archive[name] for name in names}
        if odd := [name for name in names if not isinstance(arrays[name], np.ndarray)]:
            raise DataError(spec, f"{odd[0]} is no array", hint="save it again with numpy.savez")
    return _samples(arrays, found, spec, options)


def read_safetensors(path: Path, *, spec: str, split: Split, options: DataOptions, labelled: bool = True) -> Samples:
    """Inputs, and labels where there are any, under the names in `INPUT_NAMES` and `LABEL_NAMES`."""
    with _reading(spec):
        header = read_header(path)
        found = _pick(header.tensors, spec, split, labelled=labelled)
        tensors = load_tensors(path, header)
    return _samples(tensors, found, spec, options)


def _refuse_fields(inputs: Array, spec: str) -> None:
    # The columns of a table of records are not a dimension of the array.
    if fields := getattr(inputs.dtype, "names", None):
        listed = ", ".join(fields)
        hint = "save its columns as one array of numbers: numpy.lib.recfunctions.structured_to_unstructured(x)"
        raise DataError(spec, f"holds inputs with fields ({listed:.300}), not an array of numbers", hint=hint)


def _as_numbers(labels: Array, spec: str) -> Array:
    # Labels as numbers, without merging different labels; booleans become classes 0 and 1.
    if isinstance(labels, Tensor):
        if labels.dtype not in {torch.bool, torch.uint64}:
            return labels
        labels = labels.detach().cpu().numpy()
    if labels.dtype.kind == "u" and labels.size and labels.max() > LARGEST:
        first = np.argwhere(labels > LARGEST)[0]
        what = f"the label of sample {first[0]} is {labels[tuple(first)]}"
        raise DataError(spec, what, hint="number the classes from 0")
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def _member_size(zipped: ZipFile, name: str, spec: str) -> int:
    # The size of the member that NumPy reads under this name.
    found = [info for info in zipped.infolist() if info.filename in {name, f"{name}.npy"}]
    hint = "save it again with numpy.savez"
    if len(found) != 1:  # programs would read different ones
        raise DataError(spec, f"holds {name} {len(found)} times", hint=hint)
    size, claimed = found[0].file_size, _claimed_size(zipped, found[0])
    if claimed > size:  # NumPy would allocate that much memory before it reads
        raise DataError(spec, f"cannot be read: {name} holds {size:,} bytes, and by its header {claimed:,}", hint=hint)
    return size


def _claimed_size(zipped: ZipFile, member: ZipInfo) -> int:
    """The bytes of values that a member's header declares; 0 if it is not an array of numbers."""
    with zipped.open(member) as file:
        try:
            read = HEADERS[read_magic(file)]
            shape, _, dtype = read(file)
        except (KeyError, ValueError):
            return 0  # reported when it is read
    return 0 if dtype.hasobject else dtype.itemsize * math.prod(shape)


class _Found(NamedTuple):
    inputs: str | dict[str, str]
    """The name of the inputs, or their names by those of the network's arguments."""
    labels: str | dict[str, str] | None
    """The name of the labels, or of several by what follows `y_`."""
    split: Split | None


def _samples(arrays: Mapping[str, Array], found: _Found, spec: str, options: DataOptions) -> Samples:
    labels: Labels = arrays[found.labels] if isinstance(found.labels, str) else None
    if isinstance(found.labels, dict):
        labels = {key: arrays[name] for key, name in found.labels.items()}
    if isinstance(found.inputs, str):
        return from_arrays(arrays[found.inputs], labels, spec=spec, options=options, split=found.split)
    inputs = {argument: arrays[name] for argument, name in found.inputs.items()}
    return from_arrays(inputs, labels, spec=spec, options=options, split=found.split)


def _pick(names: Collection[str], spec: str, split: Split, *, labelled: bool) -> _Found:
    parts = [part for parts in PARTS.values() for part in parts]
    divided = any(f"{name}_{part}" in names for name in INPUT_NAMES for part in parts)
    suffixes = [f"_{part}" for part in PARTS[split]] if divided else [""]
    for suffix in suffixes:
        inputs = [f"{name}{suffix}" for name in INPUT_NAMES if f"{name}{suffix}" in names]
        labels = [f"{name}{suffix}" for name in LABEL_NAMES if labelled and f"{name}{suffix}" in names]
        if len(inputs) > 1 or len(labels) > 1:
            several = inputs if len(inputs) > 1 else labels
            raise DataError(spec, f"holds both {' and '.join(several)}", hint="keep one of them")
        if inputs:
            by_name = _several_labels(names, suffix) if labelled and not labels else None
            return _Found(inputs[0], labels[0] if labels else by_name, split if divided else None)
    if (found := _pick_several(names, split)) is not None:
        return found if labelled else found._replace(labels=None)
    looked_for = " or ".join(f"{name}{suffix}" for suffix in suffixes for name in INPUT_NAMES)
    there = ", ".join(sorted(names)) or "nothing"
    there = there if len(there) < 300 else f"{there[:300]}…"
    hint = "save inputs as x and labels as y, or as x_train, y_train, x_test and y_test"
    hint += "; two or more other arrays are inputs by the names of forward's arguments"
    raise DataError(spec, f"holds {there}, but no {looked_for}", hint=hint)


def _several_labels(names: Collection[str], suffix: str) -> dict[str, str] | None:
    """Two or more arrays of labels, `y_boxes` and `y_classes`, by what follows `y_`."""
    parts = {part for parts in PARTS.values() for part in parts}
    found = {name.removeprefix("y_").removesuffix(suffix): name for name in names if name.startswith("y_")}
    found = {key: name for key, name in found.items() if key not in parts and name.endswith(suffix)}
    return found if len(found) > 1 else None


def _pick_several(names: Collection[str], split: Split) -> _Found | None:
    """Two or more arrays without a name of inputs, by the names of the network's arguments; labels aside."""
    suffixes = {f"_{part}" for parts in PARTS.values() for part in parts}
    divided = all(name.endswith(tuple(suffixes)) for name in names)
    for suffix in (f"_{part}" for part in PARTS[split]) if divided else [""]:
        of_part = {name.removesuffix(suffix): name for name in names if name.endswith(suffix)}
        labels = [of_part.pop(name) for name in LABEL_NAMES if name in of_part]
        if len(of_part) > 1 and len(labels) < 2:
            return _Found(of_part, labels[0] if labels else None, split if divided else None)
    return None


@contextmanager
def _reading(spec: str) -> Generator[None]:
    try:
        yield
    except DataError:
        raise
    except CheckpointError as failure:
        raise DataError(spec, failure.what, hint=failure.hint) from failure
    except Exception as failure:  # for a damaged file NumPy may raise any exception
        if "Python objects" in str(failure) or "pickled" in str(failure) or "Object arrays" in str(failure):
            what, hint = "holds Python objects, which are never unpickled", "save plain arrays: x.astype('float32')"
        else:
            what, hint = f"cannot be read: {failure}", "save it again with numpy or safetensors"
        raise DataError(spec, what, hint=hint) from failure

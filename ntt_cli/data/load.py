"""Load the samples of the data that the user names."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path

import torch

from ntt_cli.config import LEAVE_OUT, NAMED_DATA, DataOptions, Split, as_typed
from ntt_cli.config.fields import PICKLES
from ntt_cli.data import samples
from ntt_cli.data.images import image_size
from ntt_cli.data.samples import Samples
from ntt_cli.data.sources.arrays import from_arrays, read_npy, read_npz, read_safetensors
from ntt_cli.data.sources.factory import DEFAULT_FACTORY, read_factory
from ntt_cli.data.sources.folder import read_folder
from ntt_cli.data.sources.image_files import SUFFIXES
from ntt_cli.data.sources.named import read_named
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.atomic import require_text
from ntt_cli.files.named import KINDS, is_noise, python_file, require_data

SOURCE_OPTIONS = {"data_root", "download", "input_shape", "workers"}
"""Options that only one kind of data reads."""


def load_samples(
    options: DataOptions,
    *,
    split: Split,
    default: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    labelled: bool = True,
) -> Samples:
    """The samples that `options` name, or the model file by `default`. Undivided data is the same for both splits.

    `seed` is for `noise:N`, and so is `input_shape`, which the model file names. If not `labelled`, the samples have no
    labels, and those in the data may be anything.

    Raises:
        DataError: if no data is named, or it cannot be found, read or used.
        UsageError: if an option was given that this data does not read.
    """
    spec = options.data if options.data is not None else default
    if spec is None:
        hint = 'name it with --data, like --data digits, or write DATA = "digits" in model.py'
        raise DataError("data", "none is named", hint=hint)
    require_text(options.data_root, DataError)
    require_data(spec)
    for name in sorted(SOURCE_OPTIONS - read_by(spec)):
        if options.gives(name):
            raise UsageError(as_typed(options, name), f"the data {spec} does not read it", hint=LEAVE_OUT)
    samples = _load(spec, options, split, input_shape, seed, labelled=labelled)
    return samples if labelled else replace(samples, labels=None)


def _load(
    spec: str, options: DataOptions, split: Split, input_shape: tuple[int, ...] | None, seed: int, *, labelled: bool
) -> Samples:
    if spec in NAMED_DATA:
        return read_named(spec, split=split, options=options)
    if is_noise(spec):
        return _noise(spec, options, input_shape, seed)
    if (python := python_file(spec)) is not None:
        path, name = python
        return read_factory(
            path.expanduser(), name or DEFAULT_FACTORY, spec=spec, split=split, options=options, labelled=labelled
        )
    return _read_path(Path(spec).expanduser(), spec, split, options, labelled=labelled)


def read_by(spec: str) -> set[str]:
    """The options that this data reads, among those that only some data reads."""
    if spec in NAMED_DATA:
        return set() if spec == "digits" else {"data_root", "download"}
    if is_noise(spec):
        return {"input_shape"}
    return {"workers"} if re.search(r"\.py(:\w+)?$", spec) or os.path.isdir(os.path.expanduser(spec)) else set()


def _read_path(path: Path, spec: str, split: Split, options: DataOptions, *, labelled: bool) -> Samples:
    suffix = path.suffix.lower()
    if path.is_dir():
        return read_folder(path, spec=spec, split=split, options=options)
    if suffix == ".npy":
        return read_npy(path, spec=spec, options=options)
    if suffix == ".npz":
        return read_npz(path, spec=spec, split=split, options=options, labelled=labelled)
    if suffix == ".safetensors":
        return read_safetensors(path, spec=spec, split=split, options=options, labelled=labelled)
    if suffix in PICKLES:
        hint = "save its tensors: safetensors.torch.save_file({'x': x, 'y': y}, 'data.safetensors')"
        raise DataError(spec, "is a pickle, which may run code when it is read", hint=hint)
    if suffix in SUFFIXES:
        raise DataError(spec, "is a single image", hint=f"name its folder: {path.parent}")
    raise DataError(spec, "is not a kind of file that can be read as data", hint=f"name {KINDS}")


def _noise(spec: str, options: DataOptions, declared: tuple[int, ...] | None, seed: int) -> Samples:
    count = spec.removeprefix("noise").removeprefix(":")
    if not re.fullmatch(r"0*[1-9]\d{0,17}", count):
        raise DataError(spec, "does not say how many samples", hint="write noise:512 for 512 of them")
    shape = declared if options.input_shape is None else tuple(map(int, options.input_shape.split("x")))
    if shape is None:
        hint = "give --input-shape, like 3x32x32, or write INPUT_SHAPE = (3, 32, 32) in model.py"
        raise DataError(spec, "the shape of a sample is not known", hint=hint)
    if len(shape) == 3:  # as for images
        channels = 1 if options.grayscale else shape[0]
        shape = (channels, *(image_size(options) or shape[1:]))
        options = options.model_copy(update={"image_size": None, "grayscale": False})
    size = (int(count), *shape)
    if 4 * math.prod(size) > samples.EAGER_BYTES:
        raise DataError(spec, f"takes {4 * math.prod(size) / 2**30:.1f} GiB of memory", hint="ask for fewer samples")
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return replace(from_arrays(noise, None, spec=spec, options=options), normalised=True)

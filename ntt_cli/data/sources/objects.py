"""Data that a caller of the Python functions passes as an object: tensors, arrays, a Dataset or a DataLoader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

import torch
from torch import Tensor

from ntt_cli.config import DataOptions
from ntt_cli.data.batch import described, tensors_of
from ntt_cli.data.convert import (
    SEVERAL,
    Raw,
    inputs_and_labels,
    is_raw,
    kind_of,
)
from ntt_cli.data.samples import Samples, refuse_workers
from ntt_cli.data.sources.arrays import from_pair
from ntt_cli.data.sources.collection import read_collection
from ntt_cli.errors import DataError
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws

TAKEN = "give a tensor or an array of inputs, a pair (inputs, labels) of them, a torch Dataset or a DataLoader"


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
    found = read_collection(data, options, labelled=labelled)
    if found is not None:
        return found
    inputs, labels, labels_name = inputs_and_labels(data, "data")
    if is_raw(inputs):
        refuse_workers(options, "data", "tensors are in memory already")
        found = _read_pair(inputs, labels, options, labelled=labelled)
        return replace(found, labels_name=labels_name)
    raise DataError("data", f"is {kind_of(data)}", hint=_what_to_give(data))


def _what_to_give(data: object) -> str:
    if isinstance(data, tuple | Mapping):
        return f"{TAKEN}; {SEVERAL}"
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, str | PurePath):
        return "of images, give the name of their folder; of arrays, of one file (.npz, .npy, .safetensors)"
    return TAKEN


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

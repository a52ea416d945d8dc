"""A SHA-256 of all samples, which shows whether data is still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor

from ntt_cli.data.batch import named_tensors, tensors_of
from ntt_cli.data.bundle import Bundle, named_within
from ntt_cli.data.samples import InputSource, Samples, Selection
from ntt_cli.data.sources.image_files import ImageFiles
from ntt_cli.files.hashed import bytes_of

BATCH_BYTES = 2**26
"""The most bytes that are read at once, unless a single sample is larger."""


def data_sha256(*parts: Samples) -> str | None:
    """SHA-256 of all samples of these parts, in order: inputs, labels and class names.

    `None` if samples differ in each reading and cannot be seeded.
    """
    if any(part.changes == "always" for part in parts):
        return None
    digest = hashlib.sha256()
    for part in parts:
        about = {"samples": len(part), "labels": part.labels is not None, "class names": part.class_names}
        digest.update(json.dumps(about).encode())
        if len(part) == 0:
            continue
        if part.bundled:
            for content in _of_bundles(part):
                digest.update(content)
            continue
        if part.labels is not None:
            for labels in tensors_of(part.labels):
                digest.update(bytes_of(labels))
        for content in _contents(part.source, torch.arange(len(part))):
            digest.update(content)
    return digest.hexdigest()


def _of_bundles(part: Samples) -> Iterator[bytes | memoryview]:
    for index in torch.arange(len(part)):
        x, labels = part.read(index[None]) if part.labels is not None else (part.source.fetch(index[None]), None)
        for value in (x, labels):
            for name, tensor in named_within(value.parts[0]) if isinstance(value, Bundle) else []:
                yield f"{name}{tensor.dtype} {list(tensor.shape)}".encode()
                yield bytes_of(tensor)


def _contents(source: InputSource, indices: Tensor) -> Iterator[bytes | memoryview]:
    if isinstance(source, Selection):
        yield from _contents(source.source, source.indices[indices])
    elif isinstance(source, ImageFiles):  # hash the files, because decoding their pixels is much slower
        yield json.dumps([source.mode, *source.size, source.resize]).encode()
        for i in indices.tolist():
            yield hashlib.sha256(source.paths[i].read_bytes()).digest()
    else:
        first = source.fetch(indices[:1])
        for name, part in named_tensors(first):
            yield f"{name}{part.dtype} {list(part.shape[1:])}".encode()
        size = sum(part.nbytes for part in tensors_of(first))
        for batch in indices.split(max(1, BATCH_BYTES // max(1, size))):
            yield from map(bytes_of, tensors_of(source.fetch(batch)))

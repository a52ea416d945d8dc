"""What a caller passes or a factory returns that is neither arrays nor a name: Datasets, loaders, lists and graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, unpack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ntt_cli.config import DataOptions
from ntt_cli.data.bundle import fields_of
from ntt_cli.data.samples import Samples
from ntt_cli.data.sources.batches import whole_samples
from ntt_cli.data.sources.dataset import DatasetItems, is_map_style, read_dataset
from ntt_cli.data.sources.loader import counted, read_loader
from ntt_cli.data.sources.streams import Fixed

STREAMED = 32
"""Samples of a stream in one batch."""


def read_collection(
    data: object, options: DataOptions, *, labelled: bool, spec: str | None = None, path: Path | None = None
) -> Samples | None:
    """The samples of a Dataset, a DataLoader, a list of samples, ragged tensors or a graph; `None` for anything else.

    `spec` and `path` are those of the file that made them; without it, a caller passed them.

    Raises:
        DataError: if it is unusable.
    """
    if isinstance(data, Tensor) and data.is_nested:
        data = list(data.unbind())
    if path is None and isinstance(data, list) and len(data) == 2 and isinstance(data[0], Tensor):
        return None  # inputs and labels
    if isinstance(data, PackedSequence):
        data = unpack_sequence(data)
    if isinstance(data, DataLoader):
        return read_loader(data, options, labelled=labelled, spec=spec, path=path)
    if isinstance(data, IterableDataset):
        return _read_stream(data, options, labelled=labelled, spec=spec, path=path)
    if isinstance(data, Dataset):
        named = counted("Dataset", len(data)) if is_map_style(data) else "a Dataset"
        return read_dataset(DatasetItems(data, spec or named, options, labelled, path))
    if isinstance(data, list) and data and (all(map(_is_sample, data)) or all(map(_is_pair, data))):
        return read_dataset(DatasetItems(data, spec or counted("list", len(data)), options, labelled, path))
    if _is_graph(data):
        batches = data if isinstance(data, list) else [data]
        return whole_samples(Fixed(batches), spec or "a graph", labelled=labelled)
    return None


def _read_stream(
    data: IterableDataset[Any], options: DataOptions, *, labelled: bool, spec: str | None, path: Path | None
) -> Samples:
    """The samples of a stream: joined, or one by one if their shapes differ."""
    try:
        return read_loader(DataLoader(data, STREAMED), options, labelled=labelled, spec=spec, path=path)
    except RuntimeError:  # they do not stack
        return read_loader(DataLoader(data, 1), options, labelled=labelled, spec=spec, path=path)


def _is_sample(item: object) -> bool:
    return isinstance(item, Mapping | Tensor | Image.Image) and not hasattr(item, "edge_index")


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Tensor | np.ndarray | Image.Image)


def _is_graph(data: object) -> bool:
    """Whether a value is a graph, such as those of torch_geometric, a list of them, or tensors that are one."""
    if isinstance(data, list):
        return bool(data) and all(hasattr(item, "edge_index") for item in data)
    if isinstance(data, Mapping):
        parts = [value for value in data.values() if isinstance(value, Tensor)]
        return "edge_index" in data and len({len(part) for part in parts}) > 1
    if isinstance(data, tuple) and not hasattr(data, "_fields"):
        tensors = [part for part in data if isinstance(part, Tensor)]
        return len(data) == len(tensors) > 2 and len({part.shape[:1] for part in tensors}) > 1
    return "edge_index" in fields_of(data) or hasattr(data, "edge_index")

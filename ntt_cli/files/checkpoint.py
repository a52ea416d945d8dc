"""Checkpoints: a plain state dict in safetensors with its record in the metadata. Pruned entries are exactly `0.0`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ntt_cli import __version__
from ntt_cli.config.pattern import Groups
from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import require_text, sha256_of
from ntt_cli.files.free_memory import require_memory
from ntt_cli.files.groups import groups_of
from ntt_cli.files.hashed import DTYPES, tensor_hashes, write_hashed
from ntt_cli.files.metadata import (
    AGAIN,
    ChannelRecord,
    CheckpointRecord,
    Header,
    LayerRecord,
    MeanStd,
    MeanStdRecord,
    ModelRecord,
    Normalisation,
    ReportRecord,
    read_header,
)
from ntt_cli.files.packed import read_packed
from ntt_cli.files.packed_index import is_packed
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.files.shards import WeightFiles, find_weights
from ntt_cli.files.sizes import packed_sizes
from ntt_cli.files.torch_file import SUFFIXES, read_torch_file
from ntt_cli.results import Sizes
from ntt_cli.tensors import Masks

UNNAMED = "an ntt that did not record whose they are"
"""The source of mean and deviation in older files, which did not record it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: where it was read from.
        tensors: the state dict.
        masks: of the pruned weights; empty for a file that ntt did not write.
        groups: of the weights that have a pattern.
        record: what the file says about itself; `None` for a file that ntt did not write. That of a packed file has no
            hashes of tensors.
    """

    path: Path
    tensors: dict[str, Tensor]
    masks: Masks
    record: CheckpointRecord | None
    groups: Mapping[str, Groups] = field(default_factory=dict)

    @property
    def normalisation(self) -> Normalisation | None:
        """The normalisation of the network's inputs; `None` if the file does not record it."""
        if self.record is None or (self.record.standardisation is None and self.record.standardisation_source is None):
            return None
        stats = self.record.standardisation
        by = None if stats is None else MeanStd(mean=stats.mean, std=stats.std)
        return Normalisation(by, self.record.standardisation_source or UNNAMED)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the network's classes; `None` if the file does not record them."""
        return self.record.class_names if self.record else None


def pack_mask(mask: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The mask's bits in row-major order, eight a byte, first bit highest."""
    return np.packbits(mask.flatten().cpu().numpy())


def layer_records(masks: Masks, groups: Mapping[str, Groups] = MappingProxyType({})) -> dict[str, LayerRecord]:
    """What a checkpoint records of each mask, and of the patterns that some have."""
    return {
        name: LayerRecord(
            shape=tuple(mask.shape),
            kept=int(mask.sum()),
            mask_sha256=sha256_of(pack_mask(mask).tobytes()),
            groups=groups.get(name),
        )
        for name, mask in masks.items()
    }


def masked_state(state: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """A state dict ready to be written: on the CPU, contiguous, and nonzero exactly where the masks are `True`.

    A kept weight may be `0.0`, as in a zero-initialised layer. It becomes the smallest normal number of its type: this
    does not change the outputs, and the zeros alone then show the mask.
    """
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    for name, mask in masks.items():
        kept = mask.cpu()
        value = tensors[name]
        value[~kept] = 0.0
        value[kept & (value == 0)] = torch.finfo(value.dtype).tiny
    return tensors


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint to be written.

    Attributes:
        state: the state dict.
        masks: of the pruned weights.
        kind: the kind of run that made it.
        model: the network that the weights belong to.
        config: every option that affects the bytes.
        normalisation: of raw inputs; `None` if it is not known.
        class_names: in the order of the network's outputs; `None` if they are not known.
        weights: where the initial weights came from, in words.
        run_sha256: hash of the run, from `RunRecord.sha256`.
        channels: by layer, which of its channels are gone; `None` where single weights are pruned.
        groups: of the weights that have a pattern.
    """

    state: Mapping[str, Tensor]
    masks: Masks
    kind: Literal["prune", "finetune"]
    model: ModelRecord
    config: dict[str, Any]
    normalisation: Normalisation | None
    class_names: tuple[str, ...] | None = None
    weights: str | None = None
    run_sha256: str | None = None
    channels: Mapping[str, ChannelRecord] | None = None
    groups: Mapping[str, Groups] = field(default_factory=dict)


def checkpoint_of(contents: Contents, path: Path) -> Checkpoint:
    """The checkpoint that `read_checkpoint` would return if these contents were written to `path`."""
    tensors = masked_state(contents.state, contents.masks)
    normalisation = contents.normalisation
    record = CheckpointRecord(
        kind=contents.kind,
        model=contents.model,
        config=contents.config,
        layers=layer_records(contents.masks, contents.groups),
        standardisation=_mean_std_record(normalisation),
        standardisation_source=None if normalisation is None else normalisation.source,
        class_names=contents.class_names,
        weights=contents.weights,
        versions={"ntt": __version__, "torch": torch.__version__},
        run_sha256=contents.run_sha256,
        channels=None if contents.channels is None else dict(contents.channels),
        tensors=tensor_hashes(tensors),
    )
    masks = {name: mask.cpu() for name, mask in contents.masks.items()}
    return Checkpoint(path=path, tensors=tensors, masks=masks, record=record, groups=contents.groups)


def sizes_of(contents: Contents) -> Sizes:
    """How large these contents are, and would be packed."""
    tensors = {
        name: TensorRecord(dtype=DTYPES[value.dtype], shape=tuple(value.shape))
        for name, value in contents.state.items()
    }
    return packed_sizes(tensors, {name: int(mask.sum()) for name, mask in contents.masks.items()})


def write_checkpoint(path: Path, contents: Contents) -> None:
    """Write a state dict under its masks, with its record.

    Raises:
        OutputError: if the file system refuses.
    """
    checkpoint = checkpoint_of(contents, path)
    assert checkpoint.record is not None
    write_hashed(path, checkpoint.tensors, checkpoint.record)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, plain or packed, in one file or in several, and check all of it.

    A file of `torch.save` is one, too; no code of it is run.

    Raises:
        CheckpointError: if a file cannot be read or is damaged.
    """
    require_text(path, CheckpointError)
    files = find_weights(path)
    if files.index is not None:
        return Checkpoint(path=path, tensors=_read_shards(files), masks={}, record=None)
    file = files.files[0]
    if file.suffix.lower() in SUFFIXES:
        return Checkpoint(path=path, tensors=read_torch_file(file), masks={}, record=None)
    header = read_header(file)
    if is_packed(header):
        found = read_packed(file, header)
        groups = groups_of(found.record) if found.record else {}
        return Checkpoint(path=path, tensors=found.tensors, masks=found.masks, record=found.record, groups=groups)
    record = header.record
    if not isinstance(record, CheckpointRecord | None):
        what, suffix = ("report", ".report") if isinstance(record, ReportRecord) else ("run's state", ".resume")
        raise CheckpointError(file, f"is a {what}, not a checkpoint", hint=f"name the file without {suffix}")
    tensors = load_tensors(file, header)
    if record is None:
        return Checkpoint(path=path, tensors=tensors, masks={}, record=None)
    masks, groups = {name: tensors[name] != 0 for name in record.layers}, groups_of(record)
    if layer_records(masks, groups) != record.layers:
        raise CheckpointError(path, "its zeros are not its recorded masks", hint=AGAIN)
    return Checkpoint(path=path, tensors=tensors, masks=masks, record=record, groups=groups)


def _read_shards(files: WeightFiles) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in files.files:
        for name, tensor in _read_shard(shard).items():
            if files.where.get(name) != shard:
                raise CheckpointError(shard, f"holds {name:.99}, which its index puts elsewhere", hint=AGAIN)
            tensors[name] = tensor
    for name, shard in files.where.items():
        if name not in tensors:
            raise CheckpointError(shard, f"lacks {name:.99}, which its index puts there", hint="download it again")
    return tensors


def _read_shard(shard: Path) -> dict[str, Tensor]:
    if shard.suffix in SUFFIXES:
        return read_torch_file(shard)
    header = read_header(shard)
    if header.record is not None:
        raise CheckpointError(shard, "is a file of ntt, not a shard", hint="name it alone")
    return load_tensors(shard, header)


def load_tensors(path: Path, header: Header) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose header has been read.

    Raises:
        CheckpointError: if a tensor has a type that torch cannot compute with, or the tensors do not fit into memory.
    """
    for name, tensor in header.tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(path, f"{name:.99} is of type {tensor.dtype}", hint="save it as F32, F16 or BF16")
    require_memory(path, path.stat().st_size, error=CheckpointError, hint="use a machine with more memory")
    return load_file(path)


def _mean_std_record(normalisation: Normalisation | None) -> MeanStdRecord | None:
    by = None if normalisation is None else normalisation.by
    return None if by is None else MeanStdRecord(mean=by.mean, std=by.std)

"""Packed checkpoints: mask bits and kept values instead of zeros. `docs/formats.md` specifies the file.

Nothing here knows more than the bytes of a tensor, so that what is unpacked is what was packed to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.free_memory import require_memory
from ntt_cli.files.hashed import DTYPES, bytes_of, tensor_hashes, write_hashed
from ntt_cli.files.metadata import AGAIN, CheckpointRecord, Header, PackedRecord
from ntt_cli.files.packed_index import (
    INDEX,
    ITEMSIZE,
    MASKS,
    VALUES,
    PackedIndex,
    PackedParts,
    PackedTensor,
    open_packed,
)
from ntt_cli.files.zstd import FAST, MASK_BITS, compressed
from ntt_cli.tensors import Masks

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]

TYPES = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Unpacked:
    """What a packed file holds; `masks` are those of the record."""

    tensors: dict[str, Tensor]
    masks: Masks
    record: CheckpointRecord | None


def write_packed(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: CheckpointRecord | None,
    masks: Masks,
    *,
    source: tuple[str, str | None],
) -> None:
    """Write tensors in packed form; `source` is the name of their file and its SHA-256.

    Where ntt wrote the checkpoint, the tensors under its masks are those with mask bits. Elsewhere they are all tensors
    that take fewer bytes so.

    Raises:
        OutputError: if the file system refuses.
    """
    state = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    kept = {name: _flags(state[name], masks.get(name), known=record is not None) for name in state}
    entries = {name: _entry(value, kept[name]) for name, value in state.items()}
    bare = None if record is None else record.model_copy(update={"tensors": {}})
    index = PackedIndex(tensors=entries, record=bare)
    bits = [np.packbits(flags).data for flags in kept.values() if flags is not None]
    parts = {INDEX: index.packed, MASKS: compressed(bits, MASK_BITS)}
    for part in index.sizes.keys() - {MASKS}:
        stored = [_rows(state[name], kept[name]) for name, entry in entries.items() if VALUES + entry.dtype == part]
        planes = np.concatenate(stored).T
        parts[part] = compressed([np.ascontiguousarray(plane).data for plane in planes], FAST)
    held = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in parts.items()}
    name, sha256 = source
    made = PackedRecord(kind="packed", source=name, source_sha256=sha256, tensors=tensor_hashes(held))
    write_hashed(path, held, made)


def _flags(value: Tensor, mask: Tensor | None, *, known: bool) -> Flags | None:
    """Which entries are stored; `None`: all are, without mask bits."""
    if known:
        return None if mask is None else mask.cpu().contiguous().flatten().numpy()
    size = value.element_size()
    flags = np.frombuffer(bytes_of(value), f"u{size}") != 0  # by its bits: -0.0 is not 0.0
    saved = (flags.size - np.count_nonzero(flags)) * size
    return flags if saved > flags.size / 8 else None


def _entry(value: Tensor, flags: Flags | None) -> PackedTensor:
    kept = None if flags is None else int(np.count_nonzero(flags))
    return PackedTensor(dtype=DTYPES[value.dtype], shape=tuple(value.shape), kept=kept)


def _rows(value: Tensor, flags: Flags | None) -> Bytes:
    """The bytes of the entries that are stored, one row an entry."""
    rows = np.frombuffer(bytes_of(value), np.uint8).reshape(value.numel(), value.element_size())
    return rows if flags is None else rows[flags]


def read_packed(path: Path, header: Header) -> Unpacked:
    """Unpack a file whose header has been read.

    Raises:
        CheckpointError: if it is not what its index says, or does not fit into memory.
    """
    parts = open_packed(path, header)
    index = parts.index
    needed = index.dense_bytes + 2 * sum(index.sizes.values())
    require_memory(path, needed, error=CheckpointError, hint="use a machine with more memory")
    values = {name.removeprefix(VALUES): _values(parts, name) for name in index.sizes.keys() - {MASKS}}
    bits = np.frombuffer(parts.part(MASKS), np.uint8)
    tensors, masks = {}, {}
    for name, entry in index.tensors.items():
        stored, values[entry.dtype] = np.split(values[entry.dtype], [entry.stored])
        flags = None
        if entry.kept is not None:
            of_it, bits = np.split(bits, [entry.mask_bytes])
            flags = _checked(path, name, of_it, index)
        tensors[name] = _tensor(stored, flags, entry)
        if flags is not None and index.record is not None:
            masks[name] = torch.from_numpy(flags).reshape(entry.shape)
    return Unpacked(tensors, masks, index.record)


def _values(parts: PackedParts, name: str) -> NDArray[np.unsignedinteger]:
    """The stored values of one type, as unsigned integers of its size."""
    size = ITEMSIZE[name.removeprefix(VALUES)]
    planes = np.frombuffer(parts.part(name), np.uint8).reshape(size, -1)
    rows = np.empty((planes.shape[1], size), np.uint8)
    for at, plane in enumerate(planes):
        rows[:, at] = plane
    return rows.reshape(-1).view(f"u{size}")


def _checked(path: Path, name: str, bits: Bytes, index: PackedIndex) -> Flags:
    """The mask of one tensor, as its record has it."""
    entry, record = index.tensors[name], index.record
    flags = np.unpackbits(bits, count=entry.size).view(np.bool_)
    same = record is None or record.layers[name].mask_sha256 == sha256_of(bits.data)
    if np.count_nonzero(flags) != entry.kept or not same:
        raise CheckpointError(path, f"the mask of {name:.99} is not the recorded one", hint=AGAIN)
    return flags


def _tensor(stored: NDArray[np.unsignedinteger], flags: Flags | None, entry: PackedTensor) -> Tensor:
    if flags is not None:
        flat = np.zeros(entry.size, stored.dtype)
        flat[flags] = stored
    else:
        flat = stored.copy()
    return torch.from_numpy(flat.view(np.uint8)).view(TYPES[entry.dtype]).reshape(entry.shape)

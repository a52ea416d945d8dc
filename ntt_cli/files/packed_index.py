"""The index of a packed file: which tensors it holds, and the record of the checkpoint that it was made from.

Needs no torch. `docs/formats.md` has the whole format.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import NonNegativeInt, ValidationError, model_validator
from safetensors import safe_open

from ntt_cli.errors import CheckpointError
from ntt_cli.files.metadata import AGAIN, CheckpointRecord, Header, PackedRecord, Record
from ntt_cli.files.safetensors_header import HEADER_BYTES, MOST_DIMENSIONS, MOST_ENTRIES
from ntt_cli.files.strict_json import parse_json
from ntt_cli.files.zstd import TEXT, compressed, decompressed, size_of

INDEX, MASKS, VALUES = "index", "masks", "values."
"""The tensors of a packed file; the name of a type follows the last."""

ITEMSIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 8),
}
"""Bytes of an entry, by the type's name in safetensors."""


class PackedTensor(Record):
    """A tensor of the network. `kept` entries are stored, and the mask says which; `None`: all are, without a mask."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    kept: NonNegativeInt | None

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def stored(self) -> int:
        """The number of entries that are stored."""
        return self.size if self.kept is None else self.kept

    @property
    def mask_bytes(self) -> int:
        return 0 if self.kept is None else -(-self.size // 8)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.dtype not in ITEMSIZE:
            raise ValueError(f"type {self.dtype:.20} is not known")
        if len(self.shape) > MOST_DIMENSIONS or math.prod(max(1, side) for side in self.shape) > MOST_ENTRIES:
            raise ValueError(f"{str(self.shape):.99} is an absurd shape")
        if self.stored > self.size:
            raise ValueError("keeps more than there is")
        return self


class PackedIndex(Record):
    """What a packed file holds, in the order of its bytes.

    Attributes:
        tensors: by name.
        record: of the checkpoint that was packed, without the hashes of its tensors; `None` if ntt did not write it.
    """

    tensors: dict[str, PackedTensor]
    record: CheckpointRecord | None

    @model_validator(mode="after")
    def _is_of_its_record(self) -> Self:
        if self.record is None:
            return self
        layers = {name: (layer.shape, layer.kept) for name, layer in self.record.layers.items()}
        if layers != {name: (each.shape, each.kept) for name, each in self.tensors.items() if each.kept is not None}:
            raise ValueError("its layers are not those of its record")
        return self

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each part beside the index, unpacked."""
        sizes = {f"{VALUES}{tensor.dtype}": 0 for tensor in self.tensors.values()}
        for tensor in self.tensors.values():
            sizes[f"{VALUES}{tensor.dtype}"] += tensor.stored * ITEMSIZE[tensor.dtype]
        return {MASKS: sum(tensor.mask_bytes for tensor in self.tensors.values())} | sizes

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors, unpacked."""
        return sum(tensor.size * ITEMSIZE[tensor.dtype] for tensor in self.tensors.values())

    @property
    def packed(self) -> bytes:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return compressed([text.encode()], TEXT)


@dataclass(frozen=True)
class PackedParts:
    """A packed file whose index is read and whose parts have the sizes that the index promises."""

    path: Path
    index: PackedIndex

    def part(self, name: str) -> bytes:
        """One part, unpacked.

        Raises:
            CheckpointError: if it cannot be.
        """
        return decompressed(_frame(self.path, name), self.index.sizes[name], str(self.path), name)


def is_packed(header: Header) -> bool:
    return isinstance(header.record, PackedRecord)


def open_packed(path: Path, header: Header) -> PackedParts:
    """Read the index of a packed file, and check its other parts by it, without unpacking them.

    Raises:
        CheckpointError: if the file is not what its index says.
    """
    for name, tensor in header.tensors.items():
        if tensor.dtype != "U8" or len(tensor.shape) != 1:
            raise CheckpointError(path, f"its part {name:.99} is not a list of bytes", hint=AGAIN)
    if INDEX not in header.tensors:
        raise CheckpointError(path, "has no index", hint=AGAIN)
    frame = _frame(path, INDEX)
    size = size_of(frame, str(path), INDEX)
    if size > HEADER_BYTES:
        what = f"has an index of {size:,} bytes; at most {HEADER_BYTES:,} are read"
        raise CheckpointError(path, what, hint="do not trust this file; get it again from where it was made")
    index = _decode(path, decompressed(frame, size, str(path), INDEX))
    if {INDEX, *index.sizes} != header.tensors.keys():
        raise CheckpointError(path, "its index is of other parts", hint=AGAIN)
    for name, size in index.sizes.items():
        promised = size_of(_frame(path, name), str(path), name)
        if promised != size:
            what = f"its {name} unpacks to {promised:,} bytes, where its shapes take {size:,}"
            raise CheckpointError(path, what, hint=AGAIN)
    return PackedParts(path, index)


def _frame(path: Path, name: str) -> bytes:
    with safe_open(path, framework="numpy") as file:
        data: Any = file.get_tensor(name)
    return bytes(data)


def _decode(path: Path, text: bytes) -> PackedIndex:
    try:
        return PackedIndex.model_validate(parse_json(text.decode()))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(path, f"its index is damaged ({where:.200}: {problem['msg']})", hint=AGAIN) from error
    except ValueError as error:
        raise CheckpointError(path, f"its index is no JSON ({error})", hint=AGAIN) from error

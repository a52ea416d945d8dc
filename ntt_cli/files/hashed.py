"""Hashed files: tensors and their record in one safetensors file, written straight from the tensors' own memory.

`safetensors.torch.save` makes the same bytes, but needs two copies of them in memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ntt_cli.errors import CheckpointError, OutputError
from ntt_cli.files.atomic import sha256_of, write_atomically
from ntt_cli.files.metadata import FileRecord, encode_record, put_file_hash, read_header

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""The types that torch can compare and convert, with safetensors' names; files store the last types first."""

METADATA = "__metadata__"

_RANK = {dtype: number for number, dtype in enumerate(DTYPES)}


def can_hold(value: Tensor) -> bool:
    """Whether a hashed file can hold this tensor: it must be dense and of a type that safetensors has."""
    return value.dtype in DTYPES and value.layout is torch.strided


def can_be_named(name: str) -> bool:
    """Whether a tensor in a file may have this name: not the header's own key, and nothing that UTF-8 cannot encode."""
    return name != METADATA and not any("\ud800" <= letter <= "\udfff" for letter in name)


def write_hashed(path: Path, tensors: Mapping[str, Tensor], record: FileRecord) -> None:
    """Write tensors, from any device and in any layout, with a record that holds their `tensor_hashes`.

    The temporary file is read and checked before it is renamed to `path`.

    Raises:
        OutputError: if the file system refuses, or the file read back differs; `path` is then unchanged.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-_RANK[item[1].dtype], item[0])))
    start = put_file_hash(_header(ordered, encode_record(record)), map(bytes_of, ordered.values()))

    def check(written: Path) -> None:
        try:
            there = read_header(written).tensors
        except CheckpointError as error:
            raise _unlike(path, error.what) from error
        if there.keys() != ordered.keys():
            raise _unlike(path, "its tensors are others")

    write_atomically(path, start, map(bytes_of, ordered.values()), check=check)


def _unlike(path: Path, what: str) -> OutputError:
    hint = "write it elsewhere with --output; if that fails too, a tensor's name cannot be written, or the disk is bad"
    return OutputError(path, f"was written and cannot be read again: {what}", hint=hint)


def tensor_hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes, as the record in a file holds them."""
    return {name: sha256_of(bytes_of(value)) for name, value in tensors.items()}


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    # The header's length, then its JSON, padded to 8 bytes: https://huggingface.co/docs/safetensors/index#format
    entries: dict[str, object] = {METADATA: metadata}
    begin = 0
    for name, value in tensors.items():
        end = begin + value.nbytes
        entries[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def bytes_of(value: Tensor) -> memoryview:
    """A tensor's bytes in row-major order. Those of a contiguous tensor on the CPU are not copied."""
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data

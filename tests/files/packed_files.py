"""Small packed files, whole and invented."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import zstandard
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.metadata import NO_HASH, put_file_hash
from ntt_cli.files.packed import write_packed
from tests.files.test_checkpoint import MASKS, STATE, write

Edit = Callable[[dict[str, Any], dict[str, bytes]], object]


def write_small(
    folder: Path, state: Mapping[str, Tensor] = STATE, masks: Mapping[str, Tensor] = MASKS, **changes: Any
) -> Path:
    """A checkpoint `plain.safetensors` in the folder, and beside it the same packed, whose path is returned."""
    found = read_checkpoint(write(folder / "plain.safetensors", state, masks, **changes))
    path = folder / "packed.safetensors"
    write_packed(path, found.tensors, found.record, found.masks, source=("plain.safetensors", "00"))
    return path


def unpacked_parts(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The index, and all other parts as they are, unpacked."""
    with safe_open(path, framework="numpy") as file:
        parts = {name: zstandard.decompress(file.get_tensor(name).tobytes()) for name in file.keys()}  # noqa: SIM118
    return json.loads(parts.pop("index")), parts


def sealed(record: dict[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """A whole file of these frames, with hashes that are right."""
    tensors = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in parts.items()}
    record = record | {"tensors": {name: sha256_of(data) for name, data in parts.items()}, "file_sha256": NO_HASH}
    return put_file_hash(save(tensors, {"ntt": json.dumps(record, sort_keys=True, separators=(",", ":"))}))


RECORD = {"format_version": 1, "kind": "packed", "source": "plain.safetensors", "source_sha256": None}


def invented(path: Path, edit: Edit) -> Path:
    """The file with index and parts edited, its sizes and hashes right again."""
    index, parts = unpacked_parts(path)
    edit(index, parts)
    frames = {name: zstandard.compress(data) for name, data in parts.items()}
    path.write_bytes(sealed(RECORD, frames | {"index": zstandard.compress(json.dumps(index).encode())}))
    return path

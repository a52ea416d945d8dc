"""The header of a safetensors file that anyone may have written: checked for size and for ambiguity."""

from __future__ import annotations

import difflib
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from ntt_cli.config.fields import PICKLES
from ntt_cli.errors import CheckpointError
from ntt_cli.files.strict_json import parse_json

HEADER_BYTES = 16 * 2**20
"""The most bytes of a header: about 30,000 layers in ntt's own files. Reading takes about 30 bytes of memory a byte."""

MOST_DIMENSIONS = 64
MOST_ENTRIES = 2**63 - 1
START = 1024
"""The first bytes of other kinds of files."""

POINTER = "version https://git-lfs.github.com/spec/"
_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch's zip archives and pickles begin, whatever their name."""

_MAGIC = {
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a .npy file",
    b"GGUF": "a GGUF file",
    b"\x89PNG": "an image",
}
NAME_ONE = "name a safetensors file"
_HINTS = {
    "empty": "copy or make it again",
    "a web page": "download the file itself, not the page that shows it",
    "a pointer of Git LFS": "fetch the file that it stands for: git lfs pull",
    "a Python file": "name the weights, a .safetensors file, here, and this file as the model",
}


class TensorRecord(BaseModel):
    """A tensor's type, as safetensors spells it, and its shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RawHeader:
    """The contents of a file's header, by the names of its tensors in order; `parts` says where their bytes lie."""

    tensors: dict[str, TensorRecord]
    parts: dict[str, slice]
    metadata: dict[str, str]


def read_raw_header(path: Path) -> RawHeader:
    """Read and check the header, which may be neither ambiguous nor impossible; no byte of the tensors is read."""
    if path.suffix.lower() in PICKLES:
        raise _pickle(path)
    require_file(path)
    try:
        start = _start(path)
        with safe_open(path, framework="numpy") as file:  # checks offsets, sizes and types
            metadata = file.metadata() or {}
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(path, f"cannot be read: {reason}", hint=NAME_ONE) from error
    except SafetensorError as error:
        with path.open("rb") as raw:
            first = raw.read(START)
        if first[:4].startswith(_PICKLE):
            raise _pickle(path) from error
        if (kind := _kind(first, path.suffix)) is not None:
            what, hint = f"is {kind}, not a safetensors file", _HINTS.get(kind, NAME_ONE)
        else:
            what = f"is not a whole safetensors file ({error})"
            hint = "copy or make it again; it may have been cut short"
        raise CheckpointError(path, what, hint=hint) from error
    try:
        entries = parse_json(start[8:].decode())
    except ValueError as error:
        raise _untrusted(path, f"its header is ambiguous: {error}") from error
    entries.pop("__metadata__", None)
    tensors, parts = {}, {}
    for name, entry in sorted(entries.items()):
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        # Beyond these limits torch, NumPy and safetensors disagree on what a tensor is. Empty ones may have any shape.
        if len(shape) > MOST_DIMENSIONS or math.prod(max(1, side) for side in shape) > MOST_ENTRIES:
            raise _untrusted(path, f"{name:.99} has an absurd shape, {str(shape):.99}")
        tensors[name] = TensorRecord(dtype=entry["dtype"], shape=tuple(shape))
        parts[name] = slice(len(start) + begin, len(start) + end)
    return RawHeader(tensors, parts, metadata)


def _start(path: Path) -> bytes:
    # The length of the header, and the header; only a part if the file is something else.
    with path.open("rb") as file:
        begin = file.read(8)
        length = struct.unpack("<Q", begin.ljust(8, b"\0"))[0]
        if HEADER_BYTES < length <= os.fstat(file.fileno()).st_size - 8:
            raise _untrusted(path, f"has a header of {length:,} bytes; at most {HEADER_BYTES:,} are read")
        return begin + file.read(min(length, HEADER_BYTES))


def _kind(start: bytes, suffix: str) -> str | None:
    """The kind of a file that is clearly something else; `None` if it may be part of a safetensors file."""
    if not start:
        return "empty"
    if known := [kind for magic, kind in _MAGIC.items() if start.startswith(magic)]:
        return known[0]
    if b"\0" in start or len(start) < 4:  # as the length of a header has
        return None
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        # The last character may be incomplete.
        if error.start < len(start) - 4:
            return None
        text = start[: error.start].decode()
    if text.startswith(POINTER):
        return "a pointer of Git LFS"
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return "a web page"
    if suffix == ".py":
        return "a Python file"
    return "JSON" if text.lstrip().startswith(("{", "[")) else "text"


def _pickle(path: Path) -> CheckpointError:
    hint = "convert it where you trust it: safetensors.torch.save_file(model.state_dict(), 'dense.safetensors')"
    return CheckpointError(path, "may hold a pickle, which can run code when it is read", hint=hint)


def _untrusted(path: Path, what: str) -> CheckpointError:
    return CheckpointError(path, what, hint="do not trust this file; get it again from where it was made")


def require_file(path: Path) -> None:
    """Refuse a path that is no file.

    Raises:
        CheckpointError: that says what it is, or which file may be meant.
    """
    if os.path.isfile(path):  # `Path.is_file` raises if the name is too long
        return
    if os.path.exists(path):
        raise CheckpointError(path, "is a folder" if os.path.isdir(path) else "is a device or a pipe", hint=NAME_ONE)
    here = [str(other) for other in path.parent.glob("*.safetensors")] if os.path.isdir(path.parent) else []
    near = difflib.get_close_matches(str(path), here, n=1)
    raise CheckpointError(path, "does not exist", hint=f"did you mean {near[0]}?" if near else "check the path")

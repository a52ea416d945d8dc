"""Files of `torch.save` that the user named, as torch reads them with `weights_only=True`: no code of theirs is run."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntt_cli.errors import CheckpointError
from ntt_cli.files.free_memory import require_memory
from ntt_cli.files.hashed import can_hold
from ntt_cli.files.safetensors_header import require_file

SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt"})
MORE_MEMORY = "use a machine with more memory"
CONVERT = "convert it where you trust it: safetensors.torch.save_file(model.state_dict(), 'dense.safetensors')"
MOST_WORDS = 200


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the dicts in a checkpoint under their key: `state_dict.fc.weight`.

    Other contents, such as the state of an optimiser, are left out.

    Raises:
        CheckpointError: if torch refuses the file, it holds no tensors, or they do not fit into memory.
    """
    require_file(path)
    require_memory(path, _unpacked(path), error=CheckpointError, hint=MORE_MEMORY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files raise errors of many kinds
        what = f"torch reads no weights of it: {_reason(error)}"
        raise CheckpointError(path, what, hint=CONVERT) from error
    tensors = dict(_tensors(content))
    if not tensors:
        what = f"holds no state dict, but a value of type {type(content).__name__} without tensors"
        raise CheckpointError(path, what, hint=CONVERT)
    for name, tensor in tensors.items():
        if not can_hold(tensor) or not name.isprintable():
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            what = f"{name:.99} is of type {str(kind).removeprefix('torch.')}"
            raise CheckpointError(path, what, hint="save it as float32, float16 or bfloat16, dense")
    # Views of one number, which take no memory yet.
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    require_memory(path, size, error=CheckpointError, hint=MORE_MEMORY)
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _unpacked(path: Path) -> int:
    """The bytes of the file, or of what an archive unpacks to."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return sum(part.file_size for part in archive.infolist())
    return path.stat().st_size


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield str(key), value
        elif isinstance(value, Mapping):
            inner = {name: part for name, part in value.items() if isinstance(name, str) and isinstance(part, Tensor)}
            yield from ((f"{key}.{name}", part) for name, part in inner.items())


def _reason(error: Exception) -> str:
    """What torch says, without its advice to switch the protection off."""
    lines = [line.strip() for line in str(error).splitlines() if "WeightsUnpickler error" in line]
    words = lines[0] if lines else (str(error).splitlines() or [""])[0]
    words = words.replace("WeightsUnpickler error: ", "").partition("; ")[0]
    words = words.partition(" Please use ")[0].partition(" This file can still be loaded")[0]
    return f"{type(error).__name__}: {words[:MOST_WORDS]}"

"""Checkpoints: a plain state dict in safetensors, pruned entries exactly `0.0`, with its record beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ntt_cli import __version__
from ntt_cli.core.functional import Masks
from ntt_cli.core.standardise import Standardisation
from ntt_cli.errors import CheckpointError
from ntt_cli.io.files import sha256_of
from ntt_cli.io.free_memory import require_memory
from ntt_cli.io.metadata import (
    AGAIN,
    CheckpointRecord,
    Header,
    LayerRecord,
    ModelRecord,
    ReportRecord,
    StandardisationRecord,
    read_header,
)
from ntt_cli.io.models import LoadedModel
from ntt_cli.io.sealed import DTYPES, tensor_hashes, write_sealed


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: where it was read from.
        tensors: the state dict.
        masks: of the pruned weights; empty for a file that ntt did not write.
        record: what the file says about itself; `None` for a file that ntt did not write.
    """

    path: Path
    tensors: dict[str, Tensor]
    masks: Masks
    record: CheckpointRecord | None

    @property
    def standardisation(self) -> Standardisation | None:
        """What its network's inputs are standardised with, where the file says."""
        stats = self.record.standardisation if self.record else None
        return Standardisation(mean=stats.mean, std=stats.std) if stats else None


def pack_mask(mask: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The mask's bits in row-major order, eight a byte, first bit highest."""
    return np.packbits(mask.flatten().cpu().numpy())


def layer_records(masks: Masks) -> dict[str, LayerRecord]:
    """What a checkpoint records of each mask."""
    return {
        name: LayerRecord(
            shape=tuple(mask.shape), kept=int(mask.sum()), mask_sha256=sha256_of(pack_mask(mask).tobytes())
        )
        for name, mask in masks.items()
    }


def masked_state(state: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """A state dict ready to be written: on the CPU, contiguous, and nonzero exactly where the masks are `True`.

    A kept weight that happens to be `0.0`, as in a zero-initialised layer, becomes the smallest normal number of its
    type: no output notices, and anyone can read the mask off the zeros.
    """
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    for name, mask in masks.items():
        kept = mask.cpu()
        value = tensors[name]
        value[~kept] = 0.0
        value[kept & (value == 0)] = torch.finfo(value.dtype).tiny
    return tensors


def write_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    masks: Masks,
    *,
    kind: Literal["prune", "finetune"],
    model: LoadedModel,
    config: dict[str, Any],
    standardisation: Standardisation | None,
    class_names: tuple[str, ...] | None = None,
    weights: str | None = None,
    run_sha256: str | None = None,
) -> None:
    """Write a state dict under its masks, with its record.

    Raises:
        OutputError: if the file system refuses.
    """
    tensors = masked_state(state, masks)
    record = CheckpointRecord(
        kind=kind,
        model=ModelRecord(source=model.source, sha256=model.sha256, modules=model.modules),
        config=config,
        layers=layer_records(masks),
        standardisation=standardisation_record(standardisation),
        class_names=class_names,
        weights=weights,
        versions={"ntt": __version__, "torch": torch.__version__},
        run_sha256=run_sha256,
        tensors=tensor_hashes(tensors),
    )
    write_sealed(path, tensors, record)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check the whole of it.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or holds a number that is not finite.
    """
    header = read_header(path)
    record = header.record
    if not isinstance(record, CheckpointRecord | None):
        what, suffix = ("report", ".report") if isinstance(record, ReportRecord) else ("run's state", ".resume")
        raise CheckpointError(path, f"is a {what}, not a checkpoint", hint=f"name the file without {suffix}")
    tensors = load_tensors(path, header)
    for name, value in tensors.items():
        if (value.is_floating_point() or value.is_complex()) and not _is_finite(value):
            raise CheckpointError(path, f"{name} holds NaN or infinity", hint="train or prune the network again")
    if record is None:
        return Checkpoint(path=path, tensors=tensors, masks={}, record=None)
    masks = {name: tensors[name] != 0 for name in record.layers}
    if layer_records(masks) != record.layers:
        raise CheckpointError(path, "its zeros are not its recorded masks", hint=AGAIN)
    return Checkpoint(path=path, tensors=tensors, masks=masks, record=record)


def load_tensors(path: Path, header: Header) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose header has been read.

    Raises:
        CheckpointError: if one is of a type that torch cannot compute with, or all do not fit into memory.
    """
    for name, tensor in header.tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(path, f"{name:.99} is of type {tensor.dtype}", hint="save it as F32, F16 or BF16")
    require_memory(path, path.stat().st_size, error=CheckpointError, hint="use a machine with more memory")
    return load_file(path)


def load_into(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the checkpoint's tensors into `module`, strictly; of a tied tensor one name is enough.

    Raises:
        CheckpointError: if any tensor is missing, extra or of another shape; all of them are listed.
    """
    expected = module.state_dict(keep_vars=True)  # the parameters themselves, which are the same where they are tied
    there = {id(expected[name]): value for name, value in checkpoint.tensors.items() if name in expected}
    found = {name: there[id(own)] for name, own in expected.items() if id(own) in there}
    problems = [f"missing {name} {_shape(expected[name])}" for name in expected if name not in found]
    for name, value in checkpoint.tensors.items():
        if name not in expected:
            problems.append(f"extra {name} {_shape(value)}")
        elif value.shape != expected[name].shape:
            problems.append(f"{name} is {_shape(value)}, the model has {_shape(expected[name])}")
    if problems:
        raise CheckpointError(
            checkpoint.path,
            "belongs to another model:\n  " + "\n  ".join(problems),
            hint="name the model, and the --model-arg values, that it was made with",
        )
    module.load_state_dict(found | checkpoint.tensors, strict=True)


def standardisation_record(by: Standardisation | None) -> StandardisationRecord | None:
    """What a checkpoint records of it."""
    return None if by is None else StandardisationRecord(mean=by.mean, std=by.std)


def _is_finite(value: Tensor) -> bool:
    wide = value.float() if value.itemsize == 1 else value  # torch has no isfinite for some floats of one byte
    return bool(wide.isfinite().all())


def _shape(value: Tensor) -> str:
    return str(list(value.shape))

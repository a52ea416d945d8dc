"""The forms in which a checkpoint can be written, and the conversion of its weights on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ntt_cli.config import COREML, HUB_FOLDER, LEAVE_OUT
from ntt_cli.errors import CheckpointError, OutputError, UsageError
from ntt_cli.files.atomic import check_writable, write_atomically
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.files.hub import check_folder
from ntt_cli.files.package import check_package
from ntt_cli.files.packed import write_packed

SUFFIXES = {
    "packed": ".packed.safetensors",
    "torch": ".torch.safetensors",
    "pt2": ".pt2",
    "onnx": ".onnx",
    COREML: ".mlpackage",
}
"""What the name of each form ends in by default; the last part of it is required."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Exported:
    """A checkpoint to be exported; `sha256` is of its file, `None` for a network in memory."""

    checkpoint: Checkpoint
    sha256: str | None


def _packed(path: Path, exported: Exported) -> None:
    found = exported.checkpoint
    write_packed(path, found.tensors, found.record, found.masks, source=(found.path.name, exported.sha256))


def _torch(path: Path, exported: Exported) -> None:
    """Each pruned weight as `NAME_orig` and `NAME_mask`, which `torch.nn.utils.prune` gives a module's state dict."""
    found = exported.checkpoint
    if not found.masks:
        what = f"does nothing: no weight of {found.path} has a mask"
        raise UsageError("--to torch", what, hint="export what ntt prune or ntt finetune wrote")
    state = {name: value for name, value in found.tensors.items() if name not in found.masks}
    for name, mask in found.masks.items():
        state |= {f"{name}_orig": found.tensors[name], f"{name}_mask": mask.to(found.tensors[name].dtype)}
    write_atomically(path, save({name: value.contiguous() for name, value in state.items()}, {"format": "pt"}))


FORMATS: dict[str, Callable[[Path, Exported], None]] = {"packed": _packed, "torch": _torch}
"""What writes each form that holds the weights alone."""


def default_output(checkpoint: Path, to: str) -> Path:
    """`sparse.packed.safetensors` beside `sparse.safetensors`; for a hub the folder `sparse-hub`."""
    stem = checkpoint.name.removesuffix(checkpoint.suffix) if checkpoint.suffix else checkpoint.name
    return checkpoint.with_name(f"{stem}-hub" if to == HUB_FOLDER else f"{stem}{SUFFIXES[to]}")


def check_export(output: Path, to: str, checkpoint: Path | None, *, force: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        OutputError: if it is the checkpoint itself, cannot be written, or exists and `force` is not set.
    """
    if to == HUB_FOLDER:
        check_folder(output, force=force)
        return
    suffix = f".{SUFFIXES[to].rpartition('.')[2]}"
    if output.suffix != suffix:
        what = f"is not named {suffix}, which is what is written"
        raise OutputError(output, what, hint=f"name it {output.with_suffix(suffix)}")
    if to == COREML:
        check_package(output, force=force)
        return
    if checkpoint is not None and output.exists() and checkpoint.exists() and output.samefile(checkpoint):
        raise OutputError(output, "is the checkpoint itself", hint="name another with --output")
    check_writable(output, force=force)


def convert(checkpoint: Checkpoint, dtype: str) -> tuple[Checkpoint, int]:
    """A checkpoint with its floating-point tensors in another type, and how many kept weights this made zero.

    Whole numbers, and numbers of eight bits, stay as they are.

    Raises:
        CheckpointError: if a value is beyond the largest of that type.
        UsageError: if all are of that type already.
    """
    to, option = DTYPES[dtype], f"--dtype {dtype}"
    of_another = {
        name: value
        for name, value in checkpoint.tensors.items()
        if value.is_floating_point() and value.element_size() > 1 and value.dtype != to
    }
    if not of_another:
        raise UsageError(option, f"does nothing to {checkpoint.path}: no tensor is of another type", hint=LEAVE_OUT)
    made = {name: value.to(to) for name, value in of_another.items()}
    for name, value in of_another.items():
        if bool((made[name].isinf() & value.isfinite()).any()):
            what = f"{name:.99} has values beyond {torch.finfo(to).max:g}, the largest of {dtype}"
            hint = "use --dtype bfloat16, or leave it out" if dtype == "float16" else LEAVE_OUT
            raise CheckpointError(checkpoint.path, what, hint=hint)
    return replace(checkpoint, tensors=checkpoint.tensors | made), _new_zeros(of_another, made, checkpoint)


def _new_zeros(before: Mapping[str, Tensor], after: Mapping[str, Tensor], checkpoint: Checkpoint) -> int:
    names = checkpoint.masks.keys() & before.keys()
    return sum(int(before[name].count_nonzero()) - int(after[name].count_nonzero()) for name in names)

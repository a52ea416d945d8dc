"""Load published weights, which may have other names, lack counters, or hold pairs of a weight and a mask.

Nothing is guessed. A mapping of the file's names counts only if it gives the network all its weights in their shapes,
and the file holds no other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ntt_cli.config.pattern import Groups
from ntt_cli.errors import CheckpointError, UsageError, listed
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.networks.batch_norm import is_statistic
from ntt_cli.networks.loading.fitting import OwnTensors, is_real, parts_beside, reading_of, shape_problems, wide
from ntt_cli.networks.loading.misfits import MOST_LISTED, cause_of, counted, list_misfits
from ntt_cli.tensors import Masks


@dataclass(frozen=True)
class LoadedWeights:
    """A file's tensors, masks and groups under the network's names, and how the tensors were made to fit, in words."""

    tensors: dict[str, Tensor]
    masks: Masks
    notes: tuple[str, ...]
    groups: dict[str, Groups]


@dataclass(frozen=True)
class ReadAs:
    """How a file of weights is read: the tensors under a prefix alone; without those that the network lacks."""

    prefix: str | None = None
    ignore_extra: bool = False


def load_into(module: nn.Module, checkpoint: Checkpoint, read_as: ReadAs = ReadAs()) -> LoadedWeights:
    """Load the checkpoint's tensors into `module`. The file must hold all that it trains, and nothing else.

    One name of a tied tensor is enough. Counters and tables of whole numbers may be missing, and the file may also hold
    tensors that no layer computes with, or, if they are ignored, any others.

    Raises:
        UsageError: if reading the file so has no effect.
        CheckpointError: if the tensors are not this network's; the message lists those that do not fit. The network may
            then already hold some of the tensors.
    """
    own = OwnTensors(module)
    whole, checkpoint = len(checkpoint.tensors), _under(checkpoint, read_as.prefix)
    tensors, pairs = _without_pairs(checkpoint.tensors, own)
    tensors, beside = _without_masks(tensors, own)
    reading = reading_of(tensors, own)
    names = reading.names
    apart = parts_beside(tensors, reading, own)
    state = {names[name]: value for name, value in tensors.items() if name not in apart}
    masks = {names[name]: mask for name, mask in (checkpoint.masks | pairs | beside).items() if name not in apart}
    by_id = {id(own.tensors[name]): value for name, value in reversed(state.items()) if name in own.tensors}
    # torch expects a key for each name of a tied tensor.
    tied = {name: by_id[id(value)] for name, value in own.tensors.items() if id(value) in by_id}
    _check_ties(checkpoint, state, tied)
    problems = _type_problems(state, own)
    missing, unexpected = list[str](), list[str]()
    if not problems:
        try:
            # ntt checks the keys itself: the network's hooks may rename, add or remove keys before torch compares.
            missing, unexpected = module.load_state_dict(tied | state, strict=False)
        except RuntimeError as error:
            problems = shape_problems(state, own) or str(error).splitlines()[:MOST_LISTED]
            missing = [name for name in own.tensors if name not in tied]
            unexpected = [name for name in state if name not in own.tensors]
    lacking = [name for name in missing if own.needs(name)]
    too_many = [name for name in unexpected if own.would_miss(name, state[name])]
    ignored = too_many if read_as.ignore_extra else []
    too_many = [] if ignored else too_many
    if problems or lacking or too_many:
        extra = {name: state[name] for name in too_many}
        what, hint = cause_of(tensors, own, problems, lacking, extra)
        lines = list_misfits(own, problems, lacking, extra)
        raise CheckpointError(checkpoint.path, "\n  ".join([f"{what}:", *lines]), hint=hint)
    if read_as.ignore_extra and not ignored:
        what = f"does nothing: the model has all tensors of {checkpoint.path} that matter"
        raise UsageError("--ignore-extra", what, hint="leave it out")
    _check_finite(checkpoint, state, own)
    unexpected = [name for name in unexpected if name not in ignored]
    notes = [
        f"{len(checkpoint.tensors)} of them under {read_as.prefix}" if len(checkpoint.tensors) < whole else "",
        *_renaming(names, own),
        f"{_many(len(pairs), 'pair')} of NAME_orig and NAME_mask joined" if pairs else "",
        f"{_many(len(beside), 'mask')} NAME_mask read" if beside else "",
        *_conversions(state, own),
        *_absent([name for name in own.tensors if name not in tied], own),
        f"left out {listed(ignored, MOST_LISTED)}, which the model lacks" if ignored else "",
        f"left out {counted(unexpected)}, which no layer has" if unexpected else "",
        f"left out {counted(apart)}, another part of the file than {reading.prefix}" if apart else "",
    ]
    tensors = {name: value for name, value in state.items() if name in own.tensors}
    groups = {names[name]: of_it for name, of_it in checkpoint.groups.items() if name not in apart}
    return LoadedWeights(tensors, masks, tuple(filter(None, notes)), groups)


def _under(checkpoint: Checkpoint, prefix: str | None) -> Checkpoint:
    """The tensors under a prefix, without it."""
    if prefix is None:
        return checkpoint
    inside = {n.removeprefix(prefix): value for n, value in checkpoint.tensors.items() if n.startswith(prefix)}
    if not inside:
        first = sorted({f"{name.split('.')[0]}." for name in checkpoint.tensors})
        what = f"begins no name in {checkpoint.path}"
        raise UsageError(f"--weights-prefix {prefix}", what, hint=f"names there begin with {listed(first)}")
    masks = {n.removeprefix(prefix): mask for n, mask in checkpoint.masks.items() if n.startswith(prefix)}
    groups = {n.removeprefix(prefix): own for n, own in checkpoint.groups.items() if n.startswith(prefix)}
    return replace(checkpoint, tensors=inside, masks=masks, groups=groups)


def _without_pairs(tensors: Mapping[str, Tensor], own: OwnTensors) -> tuple[dict[str, Tensor], Masks]:
    """The tensors, with each pair `NAME_orig` and `NAME_mask` of `torch.nn.utils.prune` multiplied, and the masks."""
    if any(name.endswith("_orig") for name in own.tensors):
        return dict(tensors), {}  # the network itself has such pairs
    masks: Masks = {}
    for name, value in tensors.items():
        plain = name.removesuffix("_orig")
        if plain != name and _is_mask(tensors.get(f"{plain}_mask"), value):
            masks[plain] = tensors[f"{plain}_mask"].bool()
    weights = {name: torch.where(mask, tensors[f"{name}_orig"], 0) for name, mask in masks.items()}
    taken = {f"{name}{suffix}" for name in masks for suffix in ("_orig", "_mask")}
    return weights | {name: value for name, value in tensors.items() if name not in taken}, masks


def _without_masks(tensors: Mapping[str, Tensor], own: OwnTensors) -> tuple[dict[str, Tensor], Masks]:
    """The tensors without the masks among them: each `NAME_mask` beside a `NAME` that is zero where the mask is."""
    if any(name.removesuffix("_mask") in own.tensors for name in own.tensors if name.endswith("_mask")):
        return dict(tensors), {}  # the network masks its weights itself
    masks = {
        name: tensors[f"{name}_mask"].bool()
        for name, value in tensors.items()
        if _is_mask(tensors.get(f"{name}_mask"), value) and not wide(value)[wide(tensors[f"{name}_mask"]) == 0].any()
    }
    taken = {f"{name}_mask" for name in masks}
    return {name: value for name, value in tensors.items() if name not in taken}, masks


def _is_mask(mask: Tensor | None, value: Tensor) -> bool:
    return mask is not None and mask.shape == value.shape and bool(((wide(mask) == 0) | (wide(mask) == 1)).all())


def _check_ties(checkpoint: Checkpoint, state: Mapping[str, Tensor], tied: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if name in tied and tied[name] is not value and not torch.equal(tied[name], value):
            other = next(other for other, same in state.items() if same is tied[name])
            what = f"{other} and {name} are one weight in the model, and differ in the file"
            hint = "build the network with a weight of its own for each, or save the one that is meant alone"
            raise CheckpointError(checkpoint.path, what, hint=hint)


def _type_problems(state: Mapping[str, Tensor], own: OwnTensors) -> list[str]:
    return [
        f"{name} is of type {_type(value)}, the model has {_type(own.tensors[name])}"
        for name, value in state.items()
        if name in own.tensors and not _converts(value, own.tensors[name], id(own.tensors[name]) in own.parameters)
    ]


def _converts(value: Tensor, to: Tensor, is_parameter: bool) -> bool:
    """Whether conversion keeps the numbers, rounding aside; 8-bit numbers are quantised and stand for others."""
    if value.dtype == to.dtype:
        return True
    if value.is_complex() or to.is_complex():
        return value.is_complex() == to.is_complex()
    if is_parameter or to.is_floating_point():
        return value.is_floating_point() and min(value.itemsize, to.itemsize) > 1
    return not value.is_floating_point() or bool((value == value.round()).all())


def _check_finite(checkpoint: Checkpoint, state: Mapping[str, Tensor], own: OwnTensors) -> None:
    for name, value in own.tensors.items():
        if not (value.requires_grad or is_statistic(name)) or bool(wide(value).isfinite().all()):
            continue
        if name in state and bool(wide(state[name]).isfinite().all()):
            what, hint = f"{name} holds numbers beyond {_type(value)}", "build the network in a wider type"
        else:
            what, hint = f"{name} holds NaN or infinity", "train or prune the network again"
        raise CheckpointError(checkpoint.path, what, hint=hint)


def _renaming(names: Mapping[str, str], own: OwnTensors) -> list[str]:
    """How the names were mapped, in words."""
    changed = {name: to for name, to in names.items() if to in own.tensors and name != to}
    if not changed:
        return []
    dropped = {name.removesuffix(to) if name.endswith(to) else None for name, to in changed.items()}
    added = {to.removesuffix(name) if to.endswith(name) else None for name, to in changed.items()}
    if len(dropped) == 1 and (prefix := dropped.pop()) is not None:
        return [f"prefix {prefix} dropped"]
    if len(added) == 1 and (prefix := added.pop()) is not None:
        return [f"prefix {prefix} added"]
    name, to = next(iter(changed.items()))
    return [f"names read without wrappers, {name} as {to}"]


def _conversions(state: Mapping[str, Tensor], own: OwnTensors) -> list[str]:
    kinds = {
        (_type(value), _type(own.tensors[name]))
        for name, value in state.items()
        if name in own.tensors and is_real(own.tensors[name]) and value.dtype != own.tensors[name].dtype
    }
    return [f"{kind} read into {to}" for kind, to in sorted(kinds)]


def _absent(names: Sequence[str], own: OwnTensors) -> list[str]:
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    others = [name for name in names if name not in counters and not own.needs(name)]
    return [
        f"{_many(len(counters), 'counter')} num_batches_tracked missing and set to 0" if counters else "",
        f"{counted(others)} missing and left as the network has them" if others else "",
    ]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

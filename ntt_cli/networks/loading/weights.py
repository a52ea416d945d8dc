"""Load published weights, which may have other names, lack counters, or hold pairs of a weight and a mask.

Nothing is guessed. A mapping of the file's names counts only if it gives the network all its weights in their shapes,
and the file holds no other weights.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntt_cli.errors import CheckpointError
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.networks.batch_norm import is_statistic
from ntt_cli.tensors import Masks

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that DataParallel, torch.compile, FSDP and checkpoint wrappers add to names."""

VALUES = frozenset({"weight", "bias", "gamma", "beta", "running_mean", "running_var"})
"""Names of vectors that layers compute with."""

MOST_LISTED = 20
HINT = "name the model, and the --model-arg values, that it was made with"


@dataclass(frozen=True)
class LoadedWeights:
    """A file's tensors and masks under the network's names, and how the tensors were made to fit, in words."""

    tensors: dict[str, Tensor]
    masks: Masks
    notes: tuple[str, ...]


def load_into(module: nn.Module, checkpoint: Checkpoint) -> LoadedWeights:
    """Load the checkpoint's tensors into `module`. The file must hold all that it trains, and nothing else.

    One name of a tied tensor is enough. Counters and tables of whole numbers may be missing, and the file may also hold
    tensors that no layer computes with.

    Raises:
        CheckpointError: if the tensors are not this network's; the message lists those that do not fit. The network may
            then already hold some of the tensors.
    """
    own = _Own(module)
    tensors, pairs = _without_pairs(checkpoint.tensors, own)
    tensors, beside = _without_masks(tensors, own)
    reading = _reading_of(tensors, own)
    names = reading.names
    apart = _parts_beside(tensors, reading, own)
    state = {names[name]: value for name, value in tensors.items() if name not in apart}
    masks = {names[name]: mask for name, mask in (checkpoint.masks | pairs | beside).items() if name not in apart}
    by_id = {id(own.tensors[name]): value for name, value in reversed(state.items()) if name in own.tensors}
    # torch expects a key for each name of a tied tensor.
    tied = {name: by_id[id(value)] for name, value in own.tensors.items() if id(value) in by_id}
    _check_ties(checkpoint, state, tied)
    problems = _type_problems(state, own)
    missing: list[str] = []
    unexpected: list[str] = []
    if not problems:
        try:
            # ntt checks the keys itself: the network's hooks may rename, add or remove keys before torch compares.
            missing, unexpected = module.load_state_dict(tied | state, strict=False)
        except RuntimeError as error:
            problems = _shape_problems(state, own) or str(error).splitlines()[:MOST_LISTED]
            missing = [name for name in own.tensors if name not in tied]
            unexpected = [name for name in state if name not in own.tensors]
    lacking = [name for name in missing if own.needs(name)]
    too_many = [name for name in unexpected if own.would_miss(name, state[name])]
    if problems or lacking or too_many:
        extra = {name: state[name] for name in too_many}
        what, hint = _cause(tensors, own, problems, lacking, extra)
        lines = _misfits(own, problems, lacking, extra)
        raise CheckpointError(checkpoint.path, "\n  ".join([f"{what}:", *lines]), hint=hint)
    _check_finite(checkpoint, state, own)
    notes = [
        *_renaming(names, own),
        *([f"{_many(len(pairs), 'pair')} of NAME_orig and NAME_mask joined"] if pairs else []),
        *([f"{_many(len(beside), 'mask')} NAME_mask read"] if beside else []),
        *_conversions(state, own),
        *_absent([name for name in own.tensors if name not in tied], own),
        *([f"left out {_counted(unexpected)}, which no layer has"] if unexpected else []),
        *([f"left out {_counted(apart)}, another part of the file than {reading.prefix}"] if apart else []),
    ]
    return LoadedWeights({name: state[name] for name in state if name in own.tensors}, masks, tuple(notes))


class _Own:
    """The network's own tensors."""

    def __init__(self, module: nn.Module) -> None:
        found = module.state_dict(keep_vars=True)  # the parameters themselves, so that tied ones are the same object
        self.tensors: dict[str, Tensor] = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        self.parameters = {id(p) for p in module.parameters()}
        self.modules = {name for name, _ in module.named_modules()}
        self.buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
        self._constants = {name for name in self.tensors if self._is_constant(name)}
        self.required = [name for name in self.tensors if self.needs(name)]

    def needs(self, name: str) -> bool:
        """Whether a file of weights must hold this tensor: all but counters and constants, which are not trained."""
        return name in self.tensors and name not in self._constants  # torch also expects entries that are not tensors

    def _is_constant(self, name: str) -> bool:
        """Whether a buffer holds whole numbers, or numbers that training does not produce, as in causal masks.

        A buffer of only zeros or only ones does not count: it may be the start of a statistic.
        """
        value = self.tensors[name]
        if id(value) in self.parameters or is_statistic(name):
            return False
        if not _is_real(value) or not bool(_wide(value).isfinite().all()):
            return True
        zeros, ones = _wide(value) == 0, _wide(value) == 1
        return bool((zeros | ones).all() and zeros.any() and ones.any())

    def would_miss(self, name: str, value: Tensor) -> bool:
        """Whether this tensor of the file matters, so that a network without it differs from the file's."""
        if not _is_real(value) or value.numel() <= 1 or name in self.buffers:
            return False
        layer, _, last = name.rpartition(".")
        return value.ndim > 1 or layer not in self.modules or last in VALUES


def _without_pairs(tensors: Mapping[str, Tensor], own: _Own) -> tuple[dict[str, Tensor], Masks]:
    """The tensors, with each pair `NAME_orig` and `NAME_mask` of `torch.nn.utils.prune` multiplied, and the masks."""
    if any(name.endswith("_orig") for name in own.tensors):
        return dict(tensors), {}  # the network itself has such pairs
    masks = {
        name.removesuffix("_orig"): tensors[mask].bool()
        for name, value in tensors.items()
        if name.endswith("_orig")
        and (mask := name.removesuffix("_orig") + "_mask") in tensors
        and tensors[mask].shape == value.shape
        and ((tensors[mask] == 0) | (tensors[mask] == 1)).all()
    }
    weights = {name: torch.where(mask, tensors[f"{name}_orig"], 0) for name, mask in masks.items()}
    taken = {f"{name}{suffix}" for name in masks for suffix in ("_orig", "_mask")}
    return weights | {name: value for name, value in tensors.items() if name not in taken}, masks


def _without_masks(tensors: Mapping[str, Tensor], own: _Own) -> tuple[dict[str, Tensor], Masks]:
    """The tensors without the masks among them: each `NAME_mask` beside a `NAME` that is zero where the mask is."""
    if any(name.removesuffix("_mask") in own.tensors for name in own.tensors if name.endswith("_mask")):
        return dict(tensors), {}  # the network masks its weights itself
    masks = {
        name: tensors[f"{name}_mask"].bool()
        for name, value in tensors.items()
        if (mask := tensors.get(f"{name}_mask")) is not None
        and mask.shape == value.shape
        and ((_wide(mask) == 0) | (_wide(mask) == 1)).all()
        and not _wide(value)[_wide(mask) == 0].any()
    }
    taken = {f"{name}_mask" for name in masks}
    return {name: value for name, value in tensors.items() if name not in taken}, masks


@dataclass(frozen=True)
class _Reading:
    """A mapping of the file's names to the network's. All names in the file may have a prefix, or only some."""

    names: dict[str, str]
    prefix: str = ""
    outside: frozenset[str] = frozenset()


def _reading_of(tensors: Mapping[str, Tensor], own: _Own) -> _Reading:
    """The first mapping of the file's names with which everything fits, or else the closest one."""
    nearest, fewest = _Reading({}), math.inf
    for reading in _readings(list(tensors), own):
        state = {reading.names[name]: value for name, value in tensors.items()}
        extra = sum(own.would_miss(name, value) for name, value in state.items() if name not in own.tensors)
        if (count := _lacking(state, own) + extra + len(_shape_problems(state, own))) < fewest:
            nearest, fewest = reading, count
        if count == 0:
            break
    return nearest


def _lacking(names: Collection[str], own: _Own) -> int:
    """How many of the tensors that the network needs have no name among these."""
    there = {id(own.tensors[name]) for name in names if name in own.tensors}
    return sum(id(own.tensors[name]) not in there for name in own.required)


def _parts_beside(tensors: Mapping[str, Tensor], reading: _Reading, own: _Own) -> list[str]:
    """The names without the prefix under which the file holds the whole network, such as a loss's weights.

    Empty if none of these tensors matters, or if more than one part of the file could be the network.
    """
    if not any(own.would_miss(reading.names[name], tensors[name]) for name in reading.outside):
        return []
    whole = {other.outside for other in _readings(list(tensors), own) if _holds_all(tensors, other, own)}
    return [name for name in tensors if name in reading.outside] if whole == {reading.outside} else []


def _holds_all(tensors: Mapping[str, Tensor], reading: _Reading, own: _Own) -> bool:
    """Whether the file has all that the network needs under the mapping's prefix."""
    inside = {to: tensors[name] for name, to in reading.names.items() if name not in reading.outside}
    return not _lacking(inside, own) and not _shape_problems(inside, own)


def _readings(names: Sequence[str], own: _Own) -> Iterator[_Reading]:
    # The simplest first.
    yield _Reading({name: name for name in names})
    bare, own_bare = {name: _bare(name) for name in names}, {_bare(name): name for name in own.tensors}
    if len(set(bare.values())) < len(names) or len(own_bare) < len(own.tensors) or not own.required:
        return
    common = _common_prefixes([_bare(name) for name in own.required])
    for added in common:
        first = _bare(own.required[0]).removeprefix(added)
        dropped = {name.removesuffix(first) for name in bare.values() if f".{name}".endswith(f".{first}")}
        for prefix in sorted(dropped, key=len):
            reading = {
                name: own_bare.get(added + plain.removeprefix(prefix), added + plain.removeprefix(prefix))
                if plain.startswith(prefix)
                else name
                for name, plain in bare.items()
            }
            if len(set(reading.values())) == len(names):
                outside = frozenset(name for name, plain in bare.items() if not plain.startswith(prefix))
                yield _Reading(reading, prefix, outside)


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _common_prefixes(names: Sequence[str]) -> list[str]:
    """The common prefixes of all names in whole parts, from the empty one to the longest."""
    parts = [name.split(".")[:-1] for name in names]
    shared = [part[0] for part in zip(*parts, strict=False) if len(set(part)) == 1]
    length = next((i for i, part in enumerate(zip(*parts, strict=False)) if len(set(part)) > 1), len(shared))
    return ["".join(f"{part}." for part in shared[:n]) for n in range(min(length, len(shared)) + 1)]


def _check_ties(checkpoint: Checkpoint, state: Mapping[str, Tensor], tied: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if name in tied and tied[name] is not value and not torch.equal(tied[name], value):
            other = next(other for other, same in state.items() if same is tied[name])
            what = f"{other} and {name} are one weight in the model, and differ in the file"
            hint = "build the network with a weight of its own for each, or save the one that is meant alone"
            raise CheckpointError(checkpoint.path, what, hint=hint)


def _type_problems(state: Mapping[str, Tensor], own: _Own) -> list[str]:
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


def _shape_problems(state: Mapping[str, Tensor], own: _Own) -> list[str]:
    return [
        f"{name} is {_shape(value)}, the model has {_shape(own.tensors[name])}"
        for name, value in state.items()
        if name in own.tensors and value.shape != own.tensors[name].shape
    ]


def _check_finite(checkpoint: Checkpoint, state: Mapping[str, Tensor], own: _Own) -> None:
    for name, value in own.tensors.items():
        if not (value.requires_grad or is_statistic(name)) or bool(_wide(value).isfinite().all()):
            continue
        if name in state and bool(_wide(state[name]).isfinite().all()):
            what, hint = f"{name} holds numbers beyond {_type(value)}", "build the network in a wider type"
        else:
            what, hint = f"{name} holds NaN or infinity", "train or prune the network again"
        raise CheckpointError(checkpoint.path, what, hint=hint)


def _misfits(own: _Own, problems: Sequence[str], lacking: Sequence[str], extra: Mapping[str, Tensor]) -> list[str]:
    lines = [
        *(f"missing {name} {_shape(own.tensors[name])}" for name in lacking),
        *problems,
        *(f"extra {name} {_shape(value)}" for name, value in extra.items()),
    ]
    return [*lines[:MOST_LISTED], *([f"and {len(lines) - MOST_LISTED:,} more"] if len(lines) > MOST_LISTED else [])]


def _cause(
    tensors: Mapping[str, Tensor],
    own: _Own,
    problems: Sequence[str],
    lacking: Sequence[str],
    extra: Mapping[str, Tensor],
) -> tuple[str, str]:
    """Why the file most likely does not fit, and what to do."""
    if any(".lora_" in name for name in tensors):
        return "holds an adapter (LoRA), not a network", "merge it into the network it was trained for, and save that"
    if any(" is of type " in problem for problem in problems):
        return "holds weights of other types, perhaps quantised", "save the network as F32, F16 or BF16"
    weights = {weight for name in extra if (weight := _weight_normalised(name))}
    normalised = [name for name in lacking if any(f".{weight}".endswith(f".{name}") for weight in weights)]
    if normalised:
        return (
            f"holds {_counted(normalised)} with weight normalisation, which the model lacks",
            "build the model with weight_norm, as it was trained, or call torch.nn.utils.remove_weight_norm (of"
            " parametrizations: parametrize.remove_parametrizations) on the trained network and save that",
        )
    if lacking and not problems and not extra and own.buffers.issuperset(lacking):
        return _cause_of_buffers(lacking)
    layers = {name.rpartition(".")[0] for name in lacking}
    if lacking and not problems and not extra and len(lacking) < len(own.required):
        if layers == {own.required[-1].rpartition(".")[0]}:
            return (
                f"lacks the network's last layer, {layers.pop()}, as files do that were saved without a head",
                "name the file of the whole network, or build the network without that layer",
            )
        return "lacks some of the network's layers", f"{HINT}, or save the whole network again"
    if extra and not problems and not lacking:
        inner = _twice(tensors, own)
        if inner:
            return f"holds the network more than once, as {' and '.join(inner)}", "save the one that is meant alone"
        return "holds layers that the model lacks", f"{HINT}, or save only what the model has"
    shapes = [Counter(map(_shape, values)) for values in ([own.tensors[name] for name in lacking], extra.values())]
    if lacking and not problems and shapes[0] == shapes[1]:
        return (
            "has other names for the same shapes, as another implementation of the network would",
            "rename its tensors as the model's state_dict() does: order alone does not say which is which",
        )
    if problems and not lacking and not extra and _other_outputs(tensors, own, problems):
        return (
            "has another number of outputs than the model",
            "build the model with as many (--model-arg), or train that layer first",
        )
    return "belongs to another model", HINT


def _cause_of_buffers(lacking: Sequence[str]) -> tuple[str, str]:
    if all(map(is_statistic, lacking)):
        return (
            "lacks the running statistics of batch normalisation",
            "save the whole state_dict(), not the parameters alone, or build the network with track_running_stats=False"
            " if it was trained so",
        )
    return (
        "lacks some of the network's buffers",
        "save the whole state_dict(), not the parameters alone; a buffer that the model file computes itself needs"
        " register_buffer(..., persistent=False)",
    )


def _weight_normalised(name: str) -> str | None:
    """The weight that this tensor is a part of under weight normalisation; `None` if it is not."""
    old = re.fullmatch(r"(?P<weight>.+)_[gv]", name)
    new = re.fullmatch(r"(?P<layer>|.+\.)parametrizations\.(?P<weight>[^.]+)\.original[01]", name)
    if new is not None:
        return new["layer"] + new["weight"]
    return None if old is None else old["weight"]


def _twice(tensors: Mapping[str, Tensor], own: _Own) -> list[str]:
    """The prefixes under which the file holds all that the network needs; empty if there is only one."""
    first = own.required[0]
    prefixes = [name.removesuffix(first) for name in tensors if f".{name}".endswith(f".{first}")]
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in tensors for name in own.required)]
    return [prefix or "its plain names" for prefix in whole] if len(whole) > 1 else []


def _other_outputs(tensors: Mapping[str, Tensor], own: _Own, problems: Sequence[str]) -> bool:
    """Whether only the last layer has another shape, and only on its first axis."""
    last = own.required[-1].rpartition(".")[0]
    return all(problem.startswith(f"{last}.") for problem in problems) and all(
        tensors[name].shape[1:] == own.tensors[name].shape[1:]
        for name in own.required
        if name.startswith(f"{last}.") and name in tensors
    )


def _renaming(names: Mapping[str, str], own: _Own) -> list[str]:
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


def _conversions(state: Mapping[str, Tensor], own: _Own) -> list[str]:
    kinds = {
        (_type(value), _type(own.tensors[name]))
        for name, value in state.items()
        if name in own.tensors and _is_real(own.tensors[name]) and value.dtype != own.tensors[name].dtype
    }
    return [f"{kind} read into {to}" for kind, to in sorted(kinds)]


def _absent(names: Sequence[str], own: _Own) -> list[str]:
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    others = [name for name in names if name not in counters and not own.needs(name)]
    return [
        *([f"{_many(len(counters), 'counter')} num_batches_tracked missing and set to 0"] if counters else []),
        *([f"{_counted(others)} missing and left as the network has them"] if others else []),
    ]


def _counted(names: Collection[str], most: int = 3) -> str:
    """The names if there are few, or else their number of each kind."""
    if len(names) <= most:
        return ", ".join(names)
    kinds = Counter(name.rpartition(".")[2] for name in names).most_common()
    more = f" and {sum(n for _, n in kinds[most:])} others" if len(kinds) > most else ""
    return ", ".join(f"{n} of {kind}" for kind, n in kinds[:most]) + more


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.itemsize == 1 else value  # torch lacks isfinite for some one-byte floats


def _shape(value: Tensor) -> str:
    return str(list(value.shape))


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

"""Why a file's tensors are not the network's: the most likely cause, and what does not fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from ntt_cli.networks.batch_norm import is_statistic
from ntt_cli.networks.loading.fitting import OwnTensors, shape_of

MOST_LISTED = 20
HINT = "name the model, and the --model-arg values, that it was made with"


def list_misfits(
    own: OwnTensors, problems: Sequence[str], lacking: Sequence[str], extra: Mapping[str, Tensor]
) -> list[str]:
    lines = [
        *(f"missing {name} {shape_of(own.tensors[name])}" for name in lacking),
        *problems,
        *(f"extra {name} {shape_of(value)}" for name, value in extra.items()),
    ]
    return [*lines[:MOST_LISTED], *([f"and {len(lines) - MOST_LISTED:,} more"] if len(lines) > MOST_LISTED else [])]


def cause_of(
    tensors: Mapping[str, Tensor],
    own: OwnTensors,
    problems: Sequence[str],
    lacking: Sequence[str],
    extra: Mapping[str, Tensor],
) -> tuple[str, str]:
    """Why the file most likely does not fit, and what to do."""
    if any(".lora_" in name for name in tensors):
        return "holds an adapter (LoRA), not a network", "merge it into the network it was trained for, and save that"
    if any(" is of type " in problem for problem in problems):
        return "holds weights of other types, perhaps quantised", "dequantise them, and save them as F32, F16 or BF16"
    weights = {weight for name in extra if (weight := _weight_normalised(name))}
    normalised = [name for name in lacking if any(f".{weight}".endswith(f".{name}") for weight in weights)]
    if normalised:
        hint = (
            "build the model with weight_norm, as it was trained, or call torch.nn.utils.remove_weight_norm (of"
            " parametrizations: parametrize.remove_parametrizations) on the trained network and save that"
        )
        return f"holds {counted(normalised)} with weight normalisation, which the model lacks", hint
    if lacking and not problems and not extra:
        return _cause_of_lacking(lacking, own)
    if extra and not problems and not lacking:
        if inner := _twice(tensors, own):
            return (
                f"holds the network more than once, as {' and '.join(inner)}",
                f"name one, --weights-prefix {inner[-1]}, or save it alone",
            )
        return "holds layers that the model lacks", f"{HINT}, or leave the others out with --ignore-extra"
    shapes = [Counter(map(shape_of, values)) for values in ([own.tensors[name] for name in lacking], extra.values())]
    if lacking and not problems and shapes[0] == shapes[1]:
        what = "has other names for the same shapes, as another implementation of the network would"
        return what, "rename its tensors as the model's state_dict() does: order alone does not say which is which"
    if problems and not lacking and not extra and _other_outputs(tensors, own, problems):
        hint = "build the model with as many (--model-arg), or train that layer first"
        return "has another number of outputs than the model", hint
    return "belongs to another model", HINT


def _cause_of_lacking(lacking: Sequence[str], own: OwnTensors) -> tuple[str, str]:
    if own.buffers.issuperset(lacking):
        whole = "save the whole state_dict(), not the parameters alone"
        if all(map(is_statistic, lacking)):
            hint = f"{whole}, or build the network with track_running_stats=False if it was trained so"
            return "lacks the running statistics of batch normalisation", hint
        hint = "a buffer that the model file computes itself needs register_buffer(..., persistent=False)"
        return "lacks some of the network's buffers", f"{whole}; {hint}"
    if len(lacking) == len(own.required):
        return "belongs to another model", HINT
    if {name.rpartition(".")[0] for name in lacking} == {own.last_layer}:
        what = f"lacks the network's last layer, {own.last_layer}, as files do that were saved without a head"
        return what, "name the file of the whole network, or build the network without that layer"
    return "lacks some of the network's layers", f"{HINT}, or save the whole network again"


def _weight_normalised(name: str) -> str | None:
    """The weight that this tensor is a part of under weight normalisation; `None` if it is not."""
    old = re.fullmatch(r"(?P<weight>.+)_[gv]", name)
    new = re.fullmatch(r"(?P<layer>|.+\.)parametrizations\.(?P<weight>[^.]+)\.original[01]", name)
    if new is not None:
        return new["layer"] + new["weight"]
    return None if old is None else old["weight"]


def _twice(tensors: Mapping[str, Tensor], own: OwnTensors) -> list[str]:
    """The prefixes under which the file holds all that the network needs; empty if there is only one."""
    first = own.required[0]
    prefixes = [name.removesuffix(first) for name in tensors if f".{name}".endswith(f".{first}")]
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in tensors for name in own.required)]
    return [prefix or "its plain names" for prefix in whole] if len(whole) > 1 else []


def _other_outputs(tensors: Mapping[str, Tensor], own: OwnTensors, problems: Sequence[str]) -> bool:
    """Whether only the last layer has another shape, and only on its first axis."""
    last = own.last_layer
    return all(problem.startswith(f"{last}.") for problem in problems) and all(
        tensors[name].shape[1:] == own.tensors[name].shape[1:]
        for name in own.required
        if name.startswith(f"{last}.") and name in tensors
    )


def counted(names: Collection[str], most: int = 3) -> str:
    """The names if there are few, or else their number of each kind."""
    if len(names) <= most:
        return ", ".join(names)
    kinds = Counter(name.rpartition(".")[2] for name in names).most_common()
    more = f" and {sum(n for _, n in kinds[most:])} others" if len(kinds) > most else ""
    return ", ".join(f"{n} of {kind}" for kind, n in kinds[:most]) + more

"""What a network needs of a file's tensors, and the names under which the file may hold them."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ntt_cli.networks.batch_norm import is_statistic

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that DataParallel, torch.compile, FSDP and checkpoint wrappers add to names."""

VALUES = frozenset({"weight", "bias", "gamma", "beta", "running_mean", "running_var"})
"""Names of vectors that layers compute with."""


class OwnTensors:
    """The network's own tensors."""

    def __init__(self, module: nn.Module) -> None:
        found = module.state_dict(keep_vars=True)  # the parameters themselves, so that tied ones are the same object
        self.tensors: dict[str, Tensor] = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        self.parameters = {id(p) for p in module.parameters()}
        self.modules = {name for name, _ in module.named_modules()}
        self.buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
        self._constants = {name for name in self.tensors if self._is_constant(name)}
        self.required = [name for name in self.tensors if self.needs(name)]
        self.last_layer = self.required[-1].rpartition(".")[0] if self.required else ""

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
        if not is_real(value) or not bool(wide(value).isfinite().all()):
            return True
        zeros, ones = wide(value) == 0, wide(value) == 1
        return bool((zeros | ones).all() and zeros.any() and ones.any())

    def would_miss(self, name: str, value: Tensor) -> bool:
        """Whether this tensor of the file matters, so that a network without it differs from the file's."""
        if not is_real(value) or value.numel() <= 1 or name in self.buffers:
            return False
        layer, _, last = name.rpartition(".")
        return value.ndim > 1 or layer not in self.modules or last in VALUES


@dataclass(frozen=True)
class Reading:
    """A mapping of the file's names to the network's. All names in the file may have a prefix, or only some."""

    names: dict[str, str]
    prefix: str = ""
    outside: frozenset[str] = frozenset()


def reading_of(tensors: Mapping[str, Tensor], own: OwnTensors) -> Reading:
    """The first mapping of the file's names with which everything fits, or else the closest one."""
    nearest, fewest = Reading({}), math.inf
    for reading in _readings(list(tensors), own):
        state = {reading.names[name]: value for name, value in tensors.items()}
        extra = sum(own.would_miss(name, value) for name, value in state.items() if name not in own.tensors)
        if (count := count_lacking(state, own) + extra + len(shape_problems(state, own))) < fewest:
            nearest, fewest = reading, count
        if count == 0:
            break
    return nearest


def count_lacking(names: Collection[str], own: OwnTensors) -> int:
    """How many of the tensors that the network needs have no name among these."""
    there = {id(own.tensors[name]) for name in names if name in own.tensors}
    return sum(id(own.tensors[name]) not in there for name in own.required)


def parts_beside(tensors: Mapping[str, Tensor], reading: Reading, own: OwnTensors) -> list[str]:
    """The names without the prefix under which the file holds the whole network, such as a loss's weights.

    Empty if none of these tensors matters, or if more than one part of the file could be the network.
    """
    if not any(own.would_miss(reading.names[name], tensors[name]) for name in reading.outside):
        return []
    whole = {other.outside for other in _readings(list(tensors), own) if _holds_all(tensors, other, own)}
    return [name for name in tensors if name in reading.outside] if whole == {reading.outside} else []


def _holds_all(tensors: Mapping[str, Tensor], reading: Reading, own: OwnTensors) -> bool:
    """Whether the file has all that the network needs under the mapping's prefix."""
    inside = {to: tensors[name] for name, to in reading.names.items() if name not in reading.outside}
    return not count_lacking(inside, own) and not shape_problems(inside, own)


def _readings(names: Sequence[str], own: OwnTensors) -> Iterator[Reading]:
    # The simplest first.
    yield Reading({name: name for name in names})
    bare, own_bare = {name: _bare(name) for name in names}, {_bare(name): name for name in own.tensors}
    if len(set(bare.values())) < len(names) or len(own_bare) < len(own.tensors) or not own.required:
        return
    for added in _common_prefixes([_bare(name) for name in own.required]):
        first = _bare(own.required[0]).removeprefix(added)
        dropped = {name.removesuffix(first) for name in bare.values() if f".{name}".endswith(f".{first}")}
        for prefix in sorted(dropped, key=len):
            inside = {n: added + plain.removeprefix(prefix) for n, plain in bare.items() if plain.startswith(prefix)}
            outside = frozenset(bare.keys() - inside.keys())
            reading = {name: name for name in outside} | {name: own_bare.get(to, to) for name, to in inside.items()}
            if len(set(reading.values())) == len(names):
                yield Reading(reading, prefix, outside)


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _common_prefixes(names: Sequence[str]) -> list[str]:
    """The common prefixes of all names in whole parts, from the empty one to the longest."""
    shared = os.path.commonprefix([name.split(".")[:-1] for name in names])
    return ["".join(f"{part}." for part in shared[:n]) for n in range(len(shared) + 1)]


def shape_problems(state: Mapping[str, Tensor], own: OwnTensors) -> list[str]:
    return [
        f"{name} is {shape_of(value)}, the model has {shape_of(own.tensors[name])}"
        for name, value in state.items()
        if name in own.tensors and value.shape != own.tensors[name].shape
    ]


def is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def wide(value: Tensor) -> Tensor:
    return value.float() if value.itemsize == 1 else value  # torch lacks isfinite for some one-byte floats


def shape_of(value: Tensor) -> str:
    return str(list(value.shape))

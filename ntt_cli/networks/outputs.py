"""A network's outputs among what it returns: one tensor such as its logits, or several heads by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

SelectOutputs = Callable[[Any], Any]
"""Maps what a network returns to its outputs: a tensor, or nested tensors by key, attribute or position."""

LayersOf = Callable[[nn.Module, Callable[[], Any]], dict[str, Any]]
"""Gives what layers of a network return while the function runs one pass through it (`layer_outputs.py`)."""

USUAL = "logits"
ONLY = "output"
"""The name of the output of a network that returns one tensor."""

LEFT_OUT = frozenset({"loss", "past_key_values", "cache_params", "mems", "state"})
"""Fields that are no heads beside others: a number for the batch, and caches and states that a later call reads."""

RECORDS = ("hidden_states", "attentions")
"""What the names of other such fields end in: values from inside the network, which transformers return if asked."""


class NoSuchOutput(Exception):  # noqa: N818  # names what is missing
    """The network returns no field of this name; `near` is one that is spelt almost so."""

    def __init__(self, what: str, *, near: str | None = None) -> None:
        super().__init__(what)
        self.near = near


def field_of(outputs: Any, field: str | None) -> Any:
    """The outputs' field of this key, attribute or position, by default `logits`; the outputs if they are a tensor."""
    if isinstance(outputs, Tensor):
        return outputs
    found = _fields(outputs)
    if field is None:
        return found.get(USUAL, outputs)
    if field not in found:
        listed = ", ".join(found) if found else "no fields"
        raise NoSuchOutput(f"has no output {field}; it returns {kind_of(outputs)} of {listed}")
    return found[field]


def usual_logits(outputs: Any) -> Any:
    """The outputs' field `logits`, if they have fields; otherwise the outputs."""
    return field_of(outputs, None)


def chosen_outputs(outputs: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of these names in what a network returns."""
    found = {ONLY: outputs} if isinstance(outputs, Tensor) else tensors_in(outputs)
    for name in names:
        if name not in found:
            listed = ", ".join(found) if found else "no tensors"
            raise NoSuchOutput(f"has no output {name}; it returns {kind_of(outputs)} of {listed}")
        samples = found[names[0]].shape[:1]
        if not found[name].is_floating_point() or not samples or found[name].shape[:1] != samples:
            what = f"{found[name].dtype} {[*found[name].shape]}".removeprefix("torch.")
            raise NoSuchOutput(f"has an output {name} of {what}, not real numbers with a row for each sample")
    return {name: found[name] for name in names}


def chosen_names(select_outputs: SelectOutputs) -> tuple[str, ...]:
    """The names of outputs that the user chose; empty if they were not chosen by names."""
    chosen = getattr(select_outputs, "func", None) is chosen_outputs
    return select_outputs.keywords["names"] if chosen else ()  # type: ignore[attr-defined]  # of a partial


def kind_of(outputs: Any) -> str:
    """The type of a value with its article: `a tuple`, `an int`."""
    kind = type(outputs).__name__
    return f"a{'n' * (kind[0] in 'aeio')} {kind}"


def tensors_in(outputs: Any) -> dict[str, Tensor]:
    """The tensors in nested outputs by their names, such as `pooled` and `states.0`."""
    return dict(_walk(outputs, ""))


def heads_in(outputs: Any, samples: int | None, *, only: str = ONLY) -> dict[str, Tensor]:
    """The heads: floating tensors whose first axis is the sample; of a single tensor, this under the name `only`.

    The fields `LEFT_OUT` and `RECORDS` are heads only if there are no others. With `None` samples, as for a graph, the
    first axis may be anything.
    """
    if isinstance(outputs, Tensor):
        return {only: outputs} if _is_head(outputs, samples) else {}
    heads: dict[str, Tensor] = {}
    for name, value in tensors_in(outputs).items():
        if _is_head(value, samples) and not any(value is head for head in heads.values()):
            heads[name] = value
    return {name: head for name, head in heads.items() if not _is_aside(name)} or heads


def flat(outputs: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
    """All outputs of a sample as one row, head by head."""
    rows = [head.flatten(1) if head.ndim > 1 else head[:, None] for head in outputs.values()]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


@dataclasses.dataclass(frozen=True)
class Heads:
    """The outputs that count, found in a network's first pass; called with what the network returns, it selects them.

    Attributes:
        select: what picks them, or a value that contains them, from what the network returns.
        shapes: of one sample's outputs, by name. A single tensor has the name `output`, or `logits` if it was picked.
        layers: gives what layers return, which `select` is then called with; `None`: what the network returns counts.
        own: the network's own heads, which come first, if what its blocks return follows them (`hidden.py`).
    """

    select: SelectOutputs
    shapes: Mapping[str, tuple[int, ...]]
    layers: LayersOf | None = None
    own: Heads | None = None

    def __call__(self, returned: Any) -> Any:
        """The one output, or several by name."""
        selected = self.select(returned)
        if isinstance(selected, Tensor) and len(self.shapes) == 1:
            return selected
        found = {} if isinstance(selected, Tensor) else tensors_in(selected)
        if missing := [name for name in self.shapes if name not in found]:
            now = "one tensor" if isinstance(selected, Tensor) else f"{kind_of(selected)} of {', '.join(found)}"
            before = "one tensor" if missing == [ONLY] else ", ".join(self.shapes)
            raise NoSuchOutput(f"returns {now}, and in its first pass {before}")
        return found[next(iter(self.shapes))] if len(self.shapes) == 1 else {name: found[name] for name in self.shapes}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample's outputs; of several heads, that of the row that holds them all."""
        return next(iter(self.shapes.values())) if len(self.shapes) == 1 else (sum(self.sizes),)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of outputs in each head."""
        return tuple(math.prod(shape) for shape in self.shapes.values())

    @property
    def may_be_logits(self) -> bool:
        """Whether the outputs are one tensor that was not chosen by another name than logits."""
        return len(self.shapes) == 1 and self.shapes.keys() <= {ONLY, USUAL}

    def unflatten(self, rows: Float[Tensor, "n c"]) -> dict[str, Tensor]:
        """The heads in rows that `flat` made, or in kernel products of their shape."""
        parts = rows.split(self.sizes, dim=1) if len(self.shapes) > 1 else [rows]
        return {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def __str__(self) -> str:
        return ", ".join(f"{name} {[*shape]}" for name, shape in self.shapes.items())


def _is_aside(name: str) -> bool:
    return any(part in LEFT_OUT or part.endswith(RECORDS) for part in name.split("."))


def _is_head(value: Tensor, samples: int | None) -> bool:
    fits = value.ndim > 0 and value.numel() > 0 and samples in {None, len(value)}
    return fits and value.is_floating_point()


def _walk(outputs: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(outputs, list) and any(isinstance(item, Mapping) for item in outputs):
        return  # something for each sample, such as a varying number of detections
    named = getattr(outputs, "_fields", None)  # a named tuple: its positions would name the same once more
    for name, value in _fields(outputs).items():
        if name.startswith("_") or (named is not None and name not in named):
            continue
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping | tuple | list) or dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{name}.")


def _fields(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        named = getattr(outputs, "_fields", ())  # a named tuple
        return dict(zip(named, outputs, strict=False)) | {str(i): value for i, value in enumerate(outputs)}
    return dict(getattr(outputs, "__dict__", {}))

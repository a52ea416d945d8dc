"""A network's logits among its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

SelectOutputs = Callable[[Any], Any]
"""Maps what a network returns to its logits."""

USUAL = "logits"


class NoSuchOutput(Exception):  # noqa: N818  # names what is missing
    """The network returns no field of this name."""


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


def kind_of(outputs: Any) -> str:
    """The type of a value with its article: `a tuple`, `an int`."""
    kind = type(outputs).__name__
    return f"a{'n' * (kind[0] in 'aeio')} {kind}"


def tensor_fields(outputs: Any) -> list[str]:
    """Names of the fields that are tensors."""
    return [name for name, value in _fields(outputs).items() if isinstance(value, Tensor)]


def _fields(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        named = getattr(outputs, "_fields", ())  # a named tuple
        return dict(zip(named, outputs, strict=False)) | {str(i): value for i, value in enumerate(outputs)}
    return dict(getattr(outputs, "__dict__", {}))

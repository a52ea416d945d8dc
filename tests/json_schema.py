"""Compares a document with a JSON Schema, by the keywords that docs/schemas uses. Knows nothing of ntt or pydantic."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SAYS_NOTHING = {"$schema", "$defs", "title", "description", "discriminator"}
KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def misfits(document: Any, schema: Mapping[str, Any], *, root: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a document, each with its place; keys that the schema does not name are wrong, too."""
    return list(_misfits(document, schema, schema if root is None else root, "$"))


def _misfits(value: Any, schema: Any, root: Mapping[str, Any], at: str) -> Iterator[str]:
    if schema is True:
        return
    for keyword, said in schema.items():
        if keyword in SAYS_NOTHING | {"required", "properties", "additionalProperties"}:
            continue
        if keyword == "$ref":
            yield from _misfits(value, root["$defs"][said.removeprefix("#/$defs/")], root, at)
        elif keyword in {"anyOf", "oneOf"}:
            tried = [list(_misfits(value, each, root, at)) for each in said]
            if all(tried):
                yield from min(tried, key=len)
        elif keyword == "items":
            for number, item in enumerate(value if isinstance(value, list) else []):
                yield from _misfits(item, said, root, f"{at}[{number}]")
        elif not _holds(keyword, said, value):
            yield f"{at}: {value!r:.60} is against {keyword} {said}"
    if isinstance(value, dict) and schema.get("type") == "object":
        yield from _object(value, schema, root, at)


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    named, others = schema.get("properties", {}), schema.get("additionalProperties", False)
    yield from (f"{at}.{name} is missing" for name in schema.get("required", []) if name not in value)
    for name, item in value.items():
        if name not in named and others is False:
            yield f"{at}.{name} is not in the schema"
        else:
            yield from _misfits(item, named.get(name, others), root, f"{at}.{name}")


BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}


def _holds(keyword: str, said: Any, value: Any) -> bool:
    """A keyword about numbers, or about text, holds of all other values."""
    if keyword == "type":
        return isinstance(value, KINDS[said]) and (said == "boolean" or not isinstance(value, bool))
    if keyword == "const":
        return bool(value == said)
    if keyword == "enum":
        return value in said
    if keyword == "pattern":
        return not isinstance(value, str) or re.search(said, value) is not None
    if keyword in BOUNDS:
        return not isinstance(value, int | float) or BOUNDS[keyword](value, said)
    raise NotImplementedError(keyword)

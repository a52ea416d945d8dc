"""JSON from a file that anyone may have written: refused if it is ambiguous or cannot be printed again."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

DEEPEST = 32
"""Levels of lists and objects. ntt writes fewer than ten; Python and pydantic fail at a few hundred."""


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is not JSON, names a key twice, holds NaN, infinity or a lone surrogate, or is nested too
            deeply.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [data]
    for _ in range(DEEPEST):
        level = [part for value in level if isinstance(value, (dict, list)) for part in _parts(value)]
    if level:
        raise ValueError("it is nested too deeply")
    json.dumps(data, ensure_ascii=False).encode()  # UTF-8 cannot encode a lone surrogate
    return data


def _parts(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"it names {twice!r:.99} twice")
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text:.99}, which is beyond every float")
    return number


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}")

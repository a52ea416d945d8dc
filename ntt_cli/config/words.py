"""Describe options and their errors as the user typed them, not as the validator sees them."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ntt_cli.config.fields import UNREAD, Options

MOST_LETTERS = 80
"""The most characters of a value in an error."""

LEAVE_OUT = "leave it out"
"""The hint for an option that nothing reads."""

NUMBER, WHOLE = "is not a number", "is not a whole number"
WORDS = {
    "missing": "is required",
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_from_float": WHOLE,
    "int_parsing_size": "has too many digits",
    "finite_number": "is not a finite number",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "string_type": "is not text",
    "string_unicode": "is not text",
    "string_pattern_mismatch": "is not of this form",
    "tuple_type": "should be a list",
    "too_short": "is empty",
    "extra_forbidden": "is not an option",
    "greater_than": "should be greater than {gt:g}",
    "greater_than_equal": "should be greater than or equal to {ge:g}",
    "less_than": "should be less than {lt:g}",
    "less_than_equal": "should be less than or equal to {le:g}",
}
"""Wording by the type of pydantic's error, with the bound that the error reports."""


BEHIND_METHOD = frozenset({"batches", "kernel_params", "mask", "objective", "schedule", "score", "weight_penalty"})
"""NTT's options without a flag of their own. They follow its name, as in `--method ntt:score=magnitude`."""


def flag(name: str, arguments: Sequence[str] = ("model",)) -> str:
    """`--mask-update-every` for `mask_update_every`, `MODEL` for one of the arguments."""
    if name in BEHIND_METHOD:
        return f"--method ntt:{name.replace('_', '-')}"
    return name.upper() if name in arguments else "--" + name.replace("_", "-")


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def typed(value: Any) -> str:
    """A value as it was typed, shortened for a message; empty for a flag."""
    if value is True:
        return ""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
    return shlex.quote(text).replace("\n", "\\n")


def in_a_file(value: Any) -> str:
    """A value as in a TOML file, shortened for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        text = ", ".join(map(in_a_file, value))
        return f"[{text}]" if len(text) <= MOST_LETTERS else f"[{text[: MOST_LETTERS - 1]}…]"
    return typed(value)


def as_typed(config: Options, name: str) -> str:
    """An option with its value: `--data-root /data`."""
    between = "=" if name in BEHIND_METHOD else " "
    return f"{flag(name, config.arguments)}{between}{typed(getattr(config, name))}".rstrip()


class Problem(NamedTuple):
    """What is wrong with one option, or with several together: then `name` is empty."""

    name: str
    what: str
    hint: str
    details: ErrorDetails


def problem_of(error: ValidationError, config: type[BaseModel]) -> Problem:
    problems = error.errors(include_url=False)
    first, place = problems[0], problems[0]["loc"][:1]
    name = str(place[0]) if place else ""
    known = config.model_fields[name].description if name in config.model_fields else None
    hint = LEAVE_OUT if first["type"] == UNREAD else _fraction_meant(first) or known or "leave one of them out"
    return Problem(name, _in_words([problem for problem in problems if problem["loc"][:1] == place]), hint, first)


def _fraction_meant(problem: ErrorDetails) -> str:
    """The hint for a percentage, 90 or 5%, where a fraction is asked for; empty for anything else."""
    bounds, text = problem.get("ctx", {}), str(problem["input"])
    percentage = re.fullmatch(r"(\d{1,2}(?:\.\d*)?)%|([1-9]\d(?:\.\d*)?)", text)
    of_fraction = problem["type"] == "float_parsing" or 1 in (bounds.get("lt"), bounds.get("le"))
    return f"did you mean {float(text.rstrip('%')) / 100:g}?" if percentage and of_fraction else ""


def _in_words(problems: Sequence[ErrorDetails]) -> str:
    """What is wrong, from pydantic's errors about one option; if it takes a number or a word, there are two."""
    words = [problem for problem in problems if problem["type"] == "literal_error"]
    others = [problem for problem in problems if problem["type"] != "literal_error"]
    if others:
        said = _one(others[0])
        return f"{said} or {words[0]['ctx']['expected'].strip(chr(39))}" if words and said in {NUMBER, WHOLE} else said
    known = [word.strip("'") for word in words[0]["ctx"]["expected"].replace(" or ", ", ").split(", ")]
    return not_one_of(str(words[0]["input"]), known)


def advice(name: str, known: Sequence[str]) -> str:
    """The known name that is nearest, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def not_one_of(word: str, known: Sequence[str]) -> str:
    """The message that a word is unknown, with the nearest known word."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"is not one of {', '.join(known)}" + "".join(f"; did you mean {one}?" for one in near)


def _one(problem: ErrorDetails) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return WORDS[problem["type"]].format_map(problem.get("ctx", {})) if problem["type"] in WORDS else problem["msg"]

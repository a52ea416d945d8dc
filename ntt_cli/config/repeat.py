"""The configuration file that repeats a run, from the options that its checkpoint records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from ntt_cli.config import COMMANDS
from ntt_cli.config.fields import PICKLES, UNREAD
from ntt_cli.config.file import OF_WEIGHTS
from ntt_cli.config.words import flag, problem_of

FOLDERS = "Of files and folders the names alone are recorded: run it where they lie, or write their paths."


def repeating(command: str, recorded: Mapping[str, Any]) -> str:
    """TOML with the table of a command, which its `--config` takes, from what a run of it recorded.

    Options that have their default, and those that the run did not read, are left out.

    Raises:
        ValueError: if the command line has no such options, as of a method that was registered in Python.
    """
    given = _given(command, recorded)
    if "model" in given and not (given["model"].endswith(".py") or ":" in given["model"]):
        raise ValueError(f"the network was an object in Python, of {given['model']}")
    lines = [f"# ntt {command} --config FILE.toml repeats the run.", f"# {FOLDERS}", f"[{command}]"]
    for name, value in given.items():
        line = f"{name} = {_value(value)}"
        if name in OF_WEIGHTS and PurePath(str(value)).suffix.lower() in PICKLES:
            line = f"# {line}: may hold a pickle, and is read only where it is typed; add {flag(name)}"
        lines.append(line)
    return "\n".join(lines)


def _given(command: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The options to give for the same run."""
    kind = COMMANDS[command]
    given = {}
    for name, field in kind.model_fields.items():
        value = recorded.get(name)
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        # Methods that take no steps unless told record 0, which nobody can give.
        if value not in (None, default) and not (name == "steps" and value == 0):
            given[name] = value
    while True:
        try:
            kind.model_validate(given)
            return given
        except ValidationError as error:
            problem = problem_of(error, kind)
            if problem.details["type"] != UNREAD:
                raise ValueError(f"{problem.name or 'options'}: {problem.what}") from error
            del given[problem.name]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{"".join(map(_letter, value))}"' if isinstance(value, str) else repr(value)


def _letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"

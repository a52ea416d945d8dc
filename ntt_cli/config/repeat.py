"""The configuration file and the command that repeat a run, from the options that its files record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from ntt_cli.config import COMMANDS
from ntt_cli.config.fields import PICKLES, UNREAD
from ntt_cli.config.file import OF_WEIGHTS
from ntt_cli.config.words import BEHIND_METHOD, flag, problem_of

AT_COMMAS = {"methods", "sparsities", "seeds", "learning_rates"}
"""Lists that are typed as one text."""

FOLDERS = "Of files and folders the names alone are recorded: run it where they lie, or write their paths."


def repeating(command: str, recorded: Mapping[str, Any]) -> str:
    """TOML with the table of a command, which its `--config` takes, from what a run of it recorded.

    Options that have their default, and those that the run did not read, are left out.

    Raises:
        ValueError: if the command line has no such options, as of a method that was registered in Python.
    """
    given = _given(command, recorded)
    lines = [f"# ntt {command} --config FILE.toml repeats the run.", f"# {FOLDERS}", f"[{command}]"]
    for name, value in given.items():
        line = f"{name} = {_value(value)}"
        if name in OF_WEIGHTS and PurePath(str(value)).suffix.lower() in PICKLES:
            line = f"# {line}: may hold a pickle, and is read only where it is typed; add {flag(name)}"
        lines.append(line)
    return "\n".join(lines)


def command_of(command: str, recorded: Mapping[str, Any]) -> str:
    """The command that repeats the run, in one line; where it writes to is left out, as in `repeating`.

    Raises:
        ValueError: if the command line has no such options.
    """
    given = _given(command, recorded)
    behind = [f"{name.replace('_', '-')}={given.pop(name)}" for name in sorted(BEHIND_METHOD & given.keys())]
    if behind:
        given["method"] = ":".join([given.get("method", "ntt"), *behind])
    words = ["ntt", command]
    if "model" in given:  # a name that begins with a dash would be taken for an option
        model = given.pop("model")
        words.append(f"./{model}" if model.startswith("-") else model)
    for name, value in given.items():
        if name in AT_COMMAS:
            value = [",".join(map(str, value))]
        for one in value if isinstance(value, list) else [value]:
            words += [flag(name)] if one is True else [flag(name), str(one)]
    return shlex.join(words)


def _given(command: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The options to give for the same run."""
    kind = COMMANDS[command]
    given: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        value = recorded.get(name)
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        # Methods that take no steps unless told record 0, which nobody can give.
        if value not in (None, default) and not (name == "steps" and value == 0):
            given[name] = value
    while True:
        try:
            kind.model_validate(given)
            break
        except ValidationError as error:
            problem = problem_of(error, kind)
            if problem.details["type"] != UNREAD:
                raise ValueError(f"{problem.name or 'options'}: {problem.what}") from error
            del given[problem.name]
    if "model" in given and not (given["model"].endswith(".py") or ":" in given["model"]):
        raise ValueError(f"the network was an object in Python, of {given['model']}")
    return given


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

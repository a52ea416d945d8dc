"""`--config FILE.toml`: options by name, at the top level for all commands or in the table of one command."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ntt_cli.config import COMMANDS
from ntt_cli.config.fields import PICKLES
from ntt_cli.errors import UsageError

MOST_BYTES = 2**16
"""The most bytes of a file. There are about 60 options, and reading `a.a.a.…` takes quadratic time."""


OF_WEIGHTS = ("weights", "checkpoint", "teacher")
"""The options that name files of weights."""


def read_config_file(path: Path, command: str) -> dict[str, Any]:
    """The values that the file sets for `command`; a table such as `[prune]` overrides the top level."""
    data = _read(path)
    tables = {name: data.pop(name) for name in COMMANDS if isinstance(data.get(name), dict)}
    known = {name: set(config.model_fields) for name, config in COMMANDS.items()}
    general = _normalised(path, data)
    _check(path, general, set().union(*known.values()), of="ntt")
    own = {name: _normalised(path, table) for name, table in tables.items()}
    for name, table in own.items():
        _check(path, table, known[name], of=f"ntt {name}")
    mine = {key: value for key, value in general.items() if key in known[command]} | own.get(command, {})
    for key, value in mine.items():
        if key in OF_WEIGHTS and isinstance(value, str) and PurePath(value).suffix.lower() in PICKLES:
            what = f"{key} = {value!r:.99} may hold a pickle, and such a file is read only where it was typed"
            raise UsageError(path, what, hint=f"name it on the command line: --{key} {value:.99}")
    return mine


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        # It would name code to run, and may come from elsewhere: options in a file of text can be looked at first.
        hint = f"look at its options first: ntt inspect {path} --toml > run.toml"
        raise UsageError(path, "is no file of options", hint=hint)
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise UsageError(path, f"is longer than {MOST_BYTES:,} bytes", hint="name a file of options")
        return tomllib.loads(text.decode().replace("\r\n", "\n"))
    except OSError as error:
        raise UsageError(path, f"cannot be read: {error.strerror}", hint="check the path after --config") from error
    except RecursionError as error:
        raise UsageError(path, "is nested too deeply", hint="no option takes more than a list") from error
    except ValueError as error:  # bad syntax or encoding, or a number beyond Python's limit of digits
        raise UsageError(path, f"is not valid TOML: {_abridged(str(error))}", hint="mend it at that place") from error


def _abridged(words: str) -> str:
    """An error message, shortened in the middle: it may name a very long key before the place in the file."""
    return words if len(words) < 200 else f"{words[:99]} … {words[-60:]}"


def _normalised(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    names = {key.replace("-", "_"): value for key, value in table.items()}
    if len(names) < len(table):
        twice = next(key for key in table if "-" in key and key.replace("-", "_") in table)
        raise UsageError(path, f"sets {twice:.99} and {twice.replace('-', '_'):.99}", hint="keep one of them")
    return names


def _check(path: Path, table: Mapping[str, Any], known: set[str], *, of: str) -> None:
    for key, value in table.items():
        if "\0" in "".join(part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str)):
            raise UsageError(path, f"{key:.99} holds a null character", hint="no option takes one")
        if key not in known:
            near = difflib.get_close_matches(key, [*sorted(known), *(f"[{name}]" for name in COMMANDS)], n=1)
            hint = f"did you mean {near[0]}?" if near else "ntt COMMAND --help lists the names"
            raise UsageError(path, f"{key:.99} is not an option of {of}", hint=hint)

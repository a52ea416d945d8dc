"""`--config FILE.toml`: the same names as the options, at the top level for all commands or in a command's table."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntt_cli.config import COMMANDS
from ntt_cli.errors import UsageError


def read_config_file(path: Path, command: str) -> dict[str, Any]:
    """The values that the file sets for `command`; its table, `[prune]` say, goes before the top level.

    Raises:
        UsageError: if the file is missing, no TOML, or sets a name that no command has.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(path, f"cannot be read: {error.strerror}", hint="check the path after --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(path, f"is not valid TOML: {error}", hint="mend it at that place") from error
    tables = {name: data.pop(name) for name in COMMANDS if isinstance(data.get(name), dict)}
    known = {name: set(config.model_fields) for name, config in COMMANDS.items()}
    general = _normalised(data)
    _check(path, general, set().union(*known.values()), of="ntt")
    for name, table in tables.items():
        _check(path, _normalised(table), known[name], of=f"ntt {name}")
    mine = {key: value for key, value in general.items() if key in known[command]}
    return mine | _normalised(tables.get(command, {}))


def _normalised(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in table.items()}


def _check(path: Path, table: Mapping[str, Any], known: set[str], *, of: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, [*sorted(known), *(f"[{name}]" for name in COMMANDS)], n=1)
            hint = f"did you mean {near[0]}?" if near else "ntt COMMAND --help lists the names"
            raise UsageError(path, f"{key} is not an option of {of}", hint=hint)

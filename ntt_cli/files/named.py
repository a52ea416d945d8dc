"""Files that the user named and that are not there. Nothing here imports torch, so that a typo costs no seconds.

The command line calls `require_named_files` before the work, which makes the same checks again.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from ntt_cli.config import NAMED_DATA, Options
from ntt_cli.config.fields import PICKLES
from ntt_cli.errors import CheckpointError, DataError, ModelError, NttError
from ntt_cli.files.atomic import require_text

KINDS = f"{', '.join(NAMED_DATA)}, a folder of images, a .npy, .npz or .safetensors file, data.py:factory or noise:N"

WEIGHTS = ("checkpoint", "weights", "teacher", "baseline")
"""Options that name weights, which may also be a folder, an index or a word."""


def require_named_files(config: Options) -> None:
    """Refuse a model file, weights or data that do not exist, in the words of the work itself.

    Raises:
        NttError: of the kind that the work would raise.
    """
    if (python := python_file(getattr(config, "model", None) or "")) is not None:
        require_python_file(python[0], ModelError, otherwise=write_one(python[0]))
    for name in WEIGHTS:
        _require_weights(getattr(config, name, None))
    for name in ("data", "test_data"):
        if (spec := getattr(config, name, None)) is not None:
            require_data(spec)


def _require_weights(named: str | None) -> None:
    if named is None:
        return
    require_text(named, CheckpointError)
    if Path(named).suffix.lower() not in {".safetensors", *PICKLES} or os.path.exists(named):
        return
    from ntt_cli.files.safetensors_header import require_file  # imports safetensors, which --help need not wait for

    require_file(Path(named))


def python_file(named: str) -> tuple[Path, str] | None:
    """The file and the factory of `model.py` or `model.py:factory`, in which the factory may be empty.

    Split at the last colon after .py: folders may have a colon in their names, and Windows paths do.
    """
    found = re.fullmatch(r"(.+\.py)(?::(\w+))?", named)
    return found and (Path(found[1]), found[2] or "")


def require_python_file(path: Path, error: type[NttError], *, otherwise: str = "check the path") -> None:
    """Raise `error` if there is no such file. If its folder has no Python files, the hint is `otherwise`."""
    require_text(path, error)
    if not os.path.isfile(path):  # `Path.is_file` raises if the name is too long
        what, hint = _why_missing(path, otherwise)
        raise error(path, what, hint=hint)


def _why_missing(path: Path, otherwise: str) -> tuple[str, str]:
    if os.path.isdir(path):
        return "is a folder, not a Python file", "name a .py file"
    if not os.path.isdir(path.parent):
        return f"there is no folder {path.parent}", "check the path"
    names = sorted(entry.name for entry in path.parent.glob("*.py"))
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.with_name(near[0])}?" if near else f"Python files there: {', '.join(names)}"
    return "there is no such file", hint if names else otherwise


def write_one(path: Path) -> str:
    """The hint for a model file where there is no Python file at all."""
    return f"ntt init {path} writes one"


def is_noise(spec: str) -> bool:
    return spec == "noise" or spec.startswith("noise:")


def require_data(spec: str) -> None:
    """Refuse data that is no name, no noise, no factory's file, and no path either.

    Raises:
        DataError: that says which name or path may be meant.
    """
    require_text(spec, DataError)
    path = Path(spec).expanduser()
    if spec in NAMED_DATA or is_noise(spec) or (spec and os.path.exists(path)):  # `Path.exists` raises for long names
        return
    if (python := python_file(spec)) is not None:
        require_python_file(python[0].expanduser(), DataError)
        return
    near = difflib.get_close_matches(spec.lower(), NAMED_DATA, n=1)
    if not near and os.path.isdir(path.parent):
        neighbours = {entry.name: str(entry) for entry in path.parent.iterdir()}
        near = [neighbours[name] for name in difflib.get_close_matches(path.name, neighbours, n=1)]
    hint = f"did you mean {near[0]}?" if near else f"name {KINDS}"
    if path.suffix or path.name != spec:
        raise DataError(spec, "there is no such file or folder", hint=hint)
    raise DataError(spec or "data", "is no data set, file or folder", hint=hint)

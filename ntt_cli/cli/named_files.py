"""Files that options name and that are not there: found before torch is imported, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from ntt_cli.config import Options
from ntt_cli.config.fields import PICKLES
from ntt_cli.errors import CheckpointError, ModelError
from ntt_cli.files.atomic import require_text
from ntt_cli.files.named import python_file, require_data, require_python_file, write_one

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
    from ntt_cli.files.safetensors_header import require_file

    require_file(Path(named))

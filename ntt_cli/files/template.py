"""A model file to start from."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import check_writable, write_atomically
from ntt_cli.results import ModelFile


def run(path: Path, *, force: bool) -> ModelFile:
    """Write a commented model file that every command accepts unchanged."""
    if path.is_dir():
        raise OutputError(path, "is a folder", hint=f"name a file in it: {path / 'model.py'}")
    if path.suffix != ".py":
        raise OutputError(path, "is not a .py file", hint=f"name it {path.with_name(path.name + '.py')}")
    if path.exists() and not force:
        raise OutputError(path, "exists already", hint="name another file, or overwrite it with --force")
    check_writable(path, force=True)
    template = files("ntt_cli").joinpath("resources", "model_template.py").read_text(encoding="utf-8")
    write_atomically(path, template.replace("model.py", shlex.quote(path.name)).encode())
    return ModelFile(output=str(path))

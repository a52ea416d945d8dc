"""How a network is built, as Python that somebody without ntt can run."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.config import ModelOptions
from ntt_cli.files.hub import Code
from ntt_cli.files.named import python_file
from ntt_cli.networks.loading.models import DEFAULT_FACTORY, parse_arguments
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.python_source import local_files


def code_of(options: ModelOptions, on_event: EventSink) -> Code:
    """The network that the options name, which has been built; a warning names imports from outside its folder.

    `Code.files` are its Python file and those beside it or below that it imported.
    """
    arguments = ", ".join(f"{name}={value!r}" for name, value in parse_arguments(options.model_arg).items())
    target, _, name = options.model.rpartition(":")
    if (python := python_file(options.model)) is not None:
        file, factory = python[0], python[1] or DEFAULT_FACTORY
        lines = (
            f"from {file.stem} import {factory}\n\nnetwork = {factory}({arguments})"
            if file.stem.isidentifier()
            else f'import runpy\n\nnetwork = runpy.run_path("{file.name}")["{factory}"]({arguments})'
        )
        return Code({file.name: file} | _imported(file, on_event), lines)
    if target == "torchvision":
        given = ", ".join(filter(None, [f'"{name}"', "weights=None", arguments]))
        return Code({}, f"from torchvision import models\n\nnetwork = models.get_model({given})")
    if target == "timm":
        given = ", ".join(filter(None, [f'"{name}"', arguments]))
        return Code({}, f"import timm\n\nnetwork = timm.create_model({given})")
    return Code({}, f"from {target} import {name}\n\nnetwork = {name}({arguments})")


def unknown_code(what: str) -> Code:
    """For a network that has no name: a line to fill in."""
    return Code({}, f"network = ...  # {what}")


def _imported(file: Path, on_event: EventSink) -> dict[str, Path]:
    folder, found, elsewhere = file.resolve().parent, {}, []
    for module, path in local_files(file).items():
        if path.is_relative_to(folder):
            found[path.relative_to(folder).as_posix()] = path
        else:
            elsewhere.append(module)
    if elsewhere:
        what = (
            f"{file.name} imports {', '.join(elsewhere)} from outside its folder: not copied, so install it or copy it"
        )
        on_event(Warned(what))
    return found

"""A program of `torch.export`, which `torch.export.load` reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from ntt_cli.files.atomic import write_atomically
from ntt_cli.programs.program import Program
from ntt_cli.programs.trace import outputs_of

ABOUT = "ntt.json"
"""The file in the archive that says where the program comes from; `torch.export.load` gives it as an extra file."""


def write_pt2(path: Path, program: Program) -> float:
    """Write a program, and return the largest difference of the written one from the network.

    Raises:
        ModelError: if it differs by more than rounding.
        OutputError: if the file system refuses.
    """
    about = json.dumps(program.about, sort_keys=True, indent=1)
    traced, content, found = program.traced, io.BytesIO(), list[float]()
    torch.export.save(traced, content, extra_files={ABOUT: about})

    def check(written: Path) -> None:
        with written.open("rb") as file:
            loaded = torch.export.load(file).module()
        found.append(program.difference(lambda x: outputs_of(loaded, x)))

    write_atomically(path, content.getvalue(), check=check)
    return found[0]

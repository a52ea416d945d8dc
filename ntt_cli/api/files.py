"""`ntt_cli.inspect`, `ntt_cli.verify` and `ntt_cli.init`. None of them needs torch or runs the network's code."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ntt_cli.files import inspect as inspection
from ntt_cli.files import template
from ntt_cli.files import verify as verification
from ntt_cli.files.inspect import Inspection
from ntt_cli.files.verify import Verification
from ntt_cli.results import ModelFile


def inspect(path: str | PathLike[str]) -> Inspection:
    """What a checkpoint or a report says about itself.

    Raises:
        CheckpointError: if it is neither, or damaged.
    """
    return inspection.run(Path(path))


def verify(path: str | PathLike[str]) -> Verification:
    """Check every bit of a checkpoint or a report that ntt wrote.

    Returns:
        its kind, size in bytes, number of tensors and SHA-256.

    Raises:
        CheckpointError: if a bit has changed, or ntt did not write the file.
    """
    return verification.run(Path(path))


def init(path: str | PathLike[str] = "model.py", *, force: bool = False) -> ModelFile:
    """Write a commented model file that every command takes as it is.

    Raises:
        OutputError: if the file is there already and `force` is not set, or cannot be written.
    """
    return template.run(Path(path), force=force)

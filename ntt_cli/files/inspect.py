"""`ntt inspect`: what a file says about itself. Needs neither torch nor the model's code."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.files.metadata import AnyRecord, read_header
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.results import Summary


class Inspection(Summary):
    """A safetensors file: its tensors, and its record if ntt wrote the file."""

    file: str
    bytes: int
    tensors: dict[str, TensorRecord]
    record: AnyRecord | None


def run(path: Path) -> Inspection:
    """Read the header of a checkpoint or report.

    Raises:
        CheckpointError: if it is neither.
    """
    header = read_header(path)
    return Inspection(file=str(path), bytes=path.stat().st_size, tensors=header.tensors, record=header.record)

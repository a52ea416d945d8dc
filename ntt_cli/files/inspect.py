"""`ntt inspect` and `ntt verify`: what a file says about itself. Needs neither torch nor the model's code."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.metadata import AnyRecord, read_header
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.results import Summary


class Inspection(Summary):
    """A safetensors file: its tensors, and its record if ntt wrote the file."""

    file: str
    bytes: int
    tensors: dict[str, TensorRecord]
    record: AnyRecord | None


class Verification(Summary):
    """A file in which no bit has changed.

    `sha256` is the hash of the file, as sha256sum prints it. `recorded_sha256` is the hash in the file's record: it is
    computed with zeros in its own place.
    """

    file: str
    kind: str
    bytes: int
    tensors: int
    sha256: str
    recorded_sha256: str


def inspect(path: Path) -> Inspection:
    header = read_header(path)
    return Inspection(file=str(path), bytes=path.stat().st_size, tensors=header.tensors, record=header.record)


def verify(path: Path) -> Verification:
    """Check every bit of a checkpoint or report, which ntt must have written."""
    header = read_header(path)
    if header.record is None:
        what = "was not written by ntt: it holds no hashes to check"
        raise CheckpointError(path, what, hint="compare it with sha256sum where you got it")
    return Verification(
        file=str(path),
        kind=header.record.kind,
        bytes=path.stat().st_size,
        tensors=len(header.tensors),
        sha256=file_sha256(path),
        recorded_sha256=header.record.file_sha256,
    )

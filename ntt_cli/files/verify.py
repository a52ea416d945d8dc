"""`ntt verify`: check that a file is exactly as ntt wrote it. Needs neither torch nor the model's code."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.metadata import read_header
from ntt_cli.results import Summary


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


def run(path: Path) -> Verification:
    """Check every bit of a checkpoint or report.

    Raises:
        CheckpointError: if a bit has changed, or ntt did not write the file.
    """
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

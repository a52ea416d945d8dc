"""`ntt inspect` and `ntt verify`: what a file says about itself. Needs neither torch nor the model's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.channels import check_channels
from ntt_cli.files.groups import check_groups
from ntt_cli.files.metadata import CheckpointRecord, PackedRecord, PlainRecord, read_header
from ntt_cli.files.packed_index import open_packed
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.files.sizes import packed_sizes
from ntt_cli.results import Sizes, Summary


class Inspection(Summary):
    """A safetensors file: its tensors, and its record if ntt wrote the file.

    Of a packed checkpoint these are the tensors and the record of the checkpoint, and `packed` is the file's own
    record. `sizes` are those of a checkpoint; `None` for other files.
    """

    file: str
    bytes: int
    tensors: dict[str, TensorRecord]
    record: PlainRecord | None
    packed: PackedRecord | None = None
    sizes: Sizes | None = None


class Verification(Summary):
    """A file in which no bit has changed.

    `channels` is the number of channels that are gone, each checked to be zero as a whole, where channels were pruned.

    `sha256` is the hash of the file, as sha256sum prints it. `recorded_sha256` is the hash in the file's record: it is
    computed with zeros in its own place. `groups` is how many groups each pattern has, like 2:4; all were counted.
    """

    file: str
    kind: str
    bytes: int
    tensors: int
    sha256: str
    recorded_sha256: str
    channels: int | None = None
    groups: dict[str, int] = {}

    @model_serializer(mode="wrap")
    def _without_nothing(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `channels` where single weights are pruned, and without `groups` where there is no pattern."""
        return {
            name: value
            for name, value in written(self).items()
            if not (name == "channels" and value is None) and not (name == "groups" and not value)
        }


def inspect(path: Path) -> Inspection:
    header = read_header(path)
    if isinstance(header.record, PackedRecord):
        index = open_packed(path, header).index
        tensors = {name: TensorRecord(dtype=each.dtype, shape=each.shape) for name, each in index.tensors.items()}
        kept = {name: each.kept for name, each in index.tensors.items() if each.kept is not None}
        return _inspection(path, tensors, index.record, header.record, packed_sizes(tensors, kept))
    if isinstance(header.record, CheckpointRecord):
        kept = {name: layer.kept for name, layer in header.record.layers.items()}
        return _inspection(path, header.tensors, header.record, None, packed_sizes(header.tensors, kept))
    # Another file does not say how many zeros its tensors have.
    return _inspection(path, header.tensors, header.record, None, None)


def _inspection(
    path: Path,
    tensors: dict[str, TensorRecord],
    record: PlainRecord | None,
    packed: PackedRecord | None,
    sizes: Sizes | None,
) -> Inspection:
    size = path.stat().st_size
    return Inspection(file=str(path), bytes=size, tensors=tensors, record=record, packed=packed, sizes=sizes)


def verify(path: Path) -> Verification:
    """Check every bit of a checkpoint or report, which ntt must have written, and every group of a pattern."""
    header = read_header(path)
    if header.record is None:
        what = "was not written by ntt: it holds no hashes to check"
        raise CheckpointError(path, what, hint="compare it with sha256sum where you got it")
    index = open_packed(path, header).index if isinstance(header.record, PackedRecord) else None
    record = header.record if index is None else index.record
    return Verification(
        file=str(path),
        kind=header.record.kind,
        bytes=path.stat().st_size,
        tensors=len(header.tensors if index is None else index.tensors),
        sha256=file_sha256(path),
        recorded_sha256=header.record.file_sha256,
        channels=check_channels(path, record) if isinstance(record, CheckpointRecord) else None,
        groups=check_groups(path, header),
    )

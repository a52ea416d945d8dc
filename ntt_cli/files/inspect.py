"""`ntt inspect` and `ntt verify`: what a file says about itself. Needs neither torch nor the model's code."""

from __future__ import annotations

import math
from pathlib import Path

from ntt_cli.config.repeat import repeating
from ntt_cli.documents import Document
from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.channels import check_channels
from ntt_cli.files.groups import check_groups
from ntt_cli.files.metadata import CheckpointRecord, PackedRecord, PlainRecord, read_header
from ntt_cli.files.packed_index import open_packed
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.files.sizes import packed_sizes
from ntt_cli.results import LayerSummary, Sizes


class Inspection(Document):
    """A safetensors file: its tensors, and its record if ntt wrote the file.

    Of a packed checkpoint these are the tensors and the record of the checkpoint, and `packed_record` is the file's
    own. `layers` are the pruned weights of a checkpoint, and `sizes` its own; other files have neither. A record is as
    it stands in the file, with a `format_version` of its own.
    """

    document = "inspect"

    file: str
    bytes: int
    tensors: dict[str, TensorRecord]
    record: PlainRecord | None
    layers: list[LayerSummary]
    packed_record: PackedRecord | None
    sizes: Sizes | None

    @property
    def toml(self) -> str:
        """A file for `--config` that repeats the run: the same bytes, from the same model, weights and data.

        Raises:
            CheckpointError: if it is no checkpoint of ntt's, or options of its run have no names on the command line.
        """
        if not isinstance(self.record, CheckpointRecord):
            raise CheckpointError(self.file, "records no options", hint="name a checkpoint that ntt wrote")
        try:
            return repeating(self.record.kind, self.record.config)
        except ValueError as error:
            what = f"comes from no command line: {error}"
            raise CheckpointError(self.file, what, hint="repeat it in Python") from error


class Verification(Document):
    """A file in which no bit has changed.

    `channels` is the number of channels that are gone, each checked to be zero as a whole, where channels were pruned.

    `sha256` is the hash of the file, as sha256sum prints it. `recorded_sha256` is the hash in the file's record: it is
    computed with zeros in its own place. `groups` is how many groups each pattern has, like 2:4; all were counted.
    """

    document = "verify"

    file: str
    kind: str
    bytes: int
    tensor_count: int
    sha256: str
    recorded_sha256: str
    channels: int | None = None
    groups: dict[str, int] = {}


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
    return Inspection(
        file=str(path),
        bytes=path.stat().st_size,
        tensors=tensors,
        record=record,
        layers=_layers(record) if isinstance(record, CheckpointRecord) else [],
        packed_record=packed,
        sizes=sizes,
    )


def _layers(record: CheckpointRecord) -> list[LayerSummary]:
    """The pruned weights; where whole channels are gone, the zeros of their biases are left out."""
    found = []
    for name, layer in record.layers.items():
        if len(layer.shape) > 1 or record.channels is None:
            size = math.prod(layer.shape)
            density = layer.kept / size
            found.append(LayerSummary(name=name, shape=layer.shape, kept=layer.kept, size=size, density=density))
    return found


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
        tensor_count=len(header.tensors if index is None else index.tensors),
        sha256=file_sha256(path),
        recorded_sha256=header.record.file_sha256,
        channels=check_channels(path, record) if isinstance(record, CheckpointRecord) else None,
        groups=check_groups(path, header),
    )

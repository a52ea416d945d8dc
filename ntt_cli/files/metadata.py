"""The record in a checkpoint, readable without torch: sorted JSON under one metadata key, `ntt`."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ntt_cli.config.pattern import Groups
from ntt_cli.documents import OMITTED, Omitting
from ntt_cli.errors import CheckpointError
from ntt_cli.files.safetensors_header import RawHeader, TensorRecord, read_raw_header
from ntt_cli.files.strict_json import parse_json

FORMAT_VERSION: Literal[1] = 1
KEY = "ntt"
NO_HASH = "0" * 64
HASH_KEY = b'file_sha256\\":\\"'
"""The text before the file's own SHA-256 in its header. The record is a JSON string within JSON."""

AGAIN = "make the file again"

MOST_NUMBERS = 4
"""How many numbers of a mean or a deviation a line shows."""


class Record(Omitting):
    """Base of all records in files."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(Record):
    """Where the network comes from.

    Attributes:
        source: as the user named it.
        sha256: of its Python file; `None` if it has none.
        modules: the local Python modules that it imports, with the SHA-256 of each file.
    """

    source: str
    sha256: str | None
    modules: dict[str, str] = {}


class LayerRecord(Record):
    """One pruned weight: its shape, how many entries are kept, and SHA-256 of its mask's bits, packed big-endian.

    `groups` says where it has a pattern, if it has one.
    """

    shape: tuple[PositiveInt, ...]
    kept: NonNegativeInt
    mask_sha256: str
    groups: Annotated[Groups | None, OMITTED] = None

    @model_validator(mode="after")
    def _keeps_what_there_is(self) -> Self:
        if self.kept > math.prod(self.shape):
            raise ValueError("keeps more than there is")
        return self


class SliceRecord(Record):
    """Slices of a tensor that are gone: their indices along an axis."""

    tensor: str
    axis: NonNegativeInt
    removed: tuple[NonNegativeInt, ...]


class HeadsRecord(Record):
    """The heads of an attention: how many it had, how many are kept, and how many values each returns."""

    heads: PositiveInt
    kept: PositiveInt
    width: PositiveInt

    @model_validator(mode="after")
    def _keeps_some_of_what_there_was(self) -> Self:
        if self.kept > self.heads:
            raise ValueError("keeps more heads than there were")
        return self


class ChannelRecord(Record):
    """Outputs of a layer, such as filters, that are gone as a whole.

    Attributes:
        outputs: how many the layer had.
        removed: those that are gone.
        slices: of all tensors, what made and what used them, which is zero.
        heads: of an attention, whose outputs go head by head.
    """

    outputs: PositiveInt
    removed: tuple[NonNegativeInt, ...]
    slices: tuple[SliceRecord, ...]
    heads: Annotated[HeadsRecord | None, OMITTED] = None

    @model_validator(mode="after")
    def _removes_some_of_what_there_is(self) -> Self:
        if list(self.removed) != sorted(set(self.removed)) or (self.removed and self.removed[-1] >= self.outputs):
            raise ValueError("removes channels that are not there, or in no order")
        if len(self.removed) == self.outputs:
            raise ValueError("removes all channels")
        return self


class MeanStdRecord(Record):
    """Mean and deviation with which raw inputs are normalised."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _is_of_the_same_channels(self) -> Self:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"has {len(self.mean)} means and {len(self.std)} deviations")
        return self


@dataclass(frozen=True)
class MeanStd:
    """Mean and deviation of inputs: one number each, or one for each channel or feature."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Normalisation:
    """How a network's raw inputs are normalised.

    Attributes:
        by: mean and deviation; `None` if the network takes raw inputs as they are.
        source: where these numbers come from, in words.
    """

    by: MeanStd | None
    source: str


class FileRecord(Record):
    """The fields that the records of all of ntt's files have.

    Attributes:
        format_version: of the file.
        file_sha256: of the whole file with these 64 digits as zeros, so that any changed bit is noticed.
        tensors: SHA-256 of each tensor's bytes, so that an error can name the damaged tensor.
    """

    format_version: Literal[1] = FORMAT_VERSION
    file_sha256: str = NO_HASH
    tensors: dict[str, str]


class CheckpointRecord(FileRecord):
    """Everything under the key `ntt` of a checkpoint. Fields that older files lack have a default.

    Attributes:
        model: the network that the weights belong to.
        config: every option that affects the bytes, with defaults resolved; of a path only the last part.
        layers: the pruned weights.
        standardisation: mean and deviation of raw inputs; `None` if inputs are not normalised or it is not known.
        standardisation_source: where these numbers come from, in words; `None` if that is not known.
        class_names: in the order of the network's outputs; `None` if they are not known.
        weights: the file of the initial weights and how its tensors were mapped, in words; `None` for random weights.
        versions: of the packages that affect the bytes, ntt and torch.
        run_sha256: of the run that wrote the file.
        channels: by layer, which of its outputs are gone, if whole channels were pruned; `None` if single weights were.
    """

    kind: Literal["prune", "finetune"]
    model: ModelRecord
    config: dict[str, Any]
    layers: dict[str, LayerRecord]
    standardisation: MeanStdRecord | None
    standardisation_source: str | None = None
    class_names: tuple[str, ...] | None = None
    weights: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    run_sha256: str | None = None
    channels: Annotated[dict[str, ChannelRecord] | None, OMITTED] = None

    @property
    def image_size(self) -> dict[str, Any]:
        """The options that say how images were read, where they were given."""
        return {name: self.config[name] for name in ("image_size", "grayscale") if self.config.get(name)}


class ReportRecord(FileRecord):
    """Everything under the key `ntt` of a report.

    Attributes:
        summary: what the command printed with `--json`.
        run_sha256: of the run that wrote the file.
        config: the options that the checkpoint records, too; `None` in older files.
    """

    kind: Literal["prune report", "finetune report"]
    summary: dict[str, Any]
    run_sha256: str | None = None
    config: Annotated[dict[str, Any] | None, OMITTED] = None


class RunRecord(Record):
    """Everything that affects the bytes that a run writes.

    Attributes:
        config: every option that affects the bytes, with defaults resolved.
        model: the network's source.
        weights_sha256: of the file of the initial weights; `None` without one.
        data_sha256: of all samples; `None` without data, or if the samples differ each time that they are read.
        machine: the versions and the hardware that the last bits depend on.
    """

    config: dict[str, Any]
    model: ModelRecord
    weights_sha256: str | None
    data_sha256: str | None
    machine: dict[str, str]

    @property
    def sha256(self) -> str:
        """Hash of everything but the machine. A finished file records it as `run_sha256`, which identifies the run."""
        what = self.model_dump(mode="json", exclude={"machine"})
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class StateRecord(FileRecord):
    """Everything under the key `ntt` of an unfinished run's state.

    Attributes:
        run: the run that this is the state of.
        step: steps done.
        values: the part of the state that is not tensors.
        strides: of tensors whose memory layout differs from the row-major one in the file.
    """

    kind: Literal["prune state", "finetune state"]
    run: RunRecord
    step: NonNegativeInt
    values: dict[str, Any]
    strides: dict[str, tuple[int, ...]]


class PackedRecord(FileRecord):
    """Everything under the key `ntt` of a packed checkpoint; its index holds the record of the checkpoint itself.

    Attributes:
        source: the name of the file that was packed, without its folder.
        source_sha256: of that file, as sha256sum prints it; `None` for a network in memory.
    """

    kind: Literal["packed"]
    source: Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]
    source_sha256: str | None


PlainRecord = CheckpointRecord | ReportRecord | StateRecord
"""Of a file whose tensors are what they are named."""

AnyRecord = PlainRecord | PackedRecord

_RECORD: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


def describe_inputs(by: MeanStd | MeanStdRecord | None) -> str:
    """How raw inputs are normalised, in words."""
    return "as they are" if by is None else f"normalised by mean {_few(by.mean)}, deviation {_few(by.std)}"


def _few(values: Sequence[float]) -> str:
    more = f" and {len(values) - MOST_NUMBERS:,} more" if len(values) > MOST_NUMBERS else ""
    return ", ".join(f"{value:.4g}" for value in values[:MOST_NUMBERS]) + more


def encode_record(record: FileRecord) -> dict[str, str]:
    """The safetensors metadata that holds `record`. It has one key, because safetensors does not order keys."""
    return {KEY: json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))}


def put_file_hash(start: bytes, rest: Iterable[memoryview] = ()) -> bytes:
    """The start of a file with the SHA-256 of the whole file put into its record, which `encode_record` made."""
    digest = hashlib.sha256(start)
    for part in rest:
        digest.update(part)
    return start.replace(HASH_KEY + NO_HASH.encode(), HASH_KEY + digest.hexdigest().encode(), 1)


@dataclass(frozen=True)
class Header:
    """A safetensors file without its values; `record` is `None` for a file that ntt did not write."""

    tensors: dict[str, TensorRecord]
    record: AnyRecord | None


def read_header(path: Path) -> Header:
    """Check the whole file and read its header and record, whichever of ntt's files it is.

    Raises:
        CheckpointError: if the file is missing, unreadable or not a safetensors file, or if ntt wrote the file and any
            bit of it has changed.
    """
    raw = read_raw_header(path)
    text = raw.metadata.get(KEY)
    record = None if text is None else _decode(path, text)
    _check_whole(path, raw, record)
    if record is not None:
        _check_record(path, raw, record)
    return Header(raw.tensors, record)


def _check_whole(path: Path, raw: RawHeader, record: AnyRecord | None) -> None:
    """Compare the file with its own SHA-256.

    Raises:
        CheckpointError: if they differ; it names the tensor, or the header.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        before, seal, _ = data[: 8 + struct.unpack("<Q", data[:8])[0]].partition(HASH_KEY)
        if not seal and record is None:
            return  # not ntt's
        start = len(before + seal)
        digest = hashlib.sha256(memoryview(data)[:start])
        digest.update(NO_HASH.encode())
        digest.update(memoryview(data)[start + len(NO_HASH) :])
        if seal and record is not None and digest.hexdigest() == record.file_sha256:
            return
        damaged = "" if record is None else _damaged_tensors(data, raw, record)
    raise CheckpointError(
        path,
        f"{damaged or 'its header'} is damaged: the SHA-256 does not match",
        hint="copy the file again, or make it again",
    )


def _damaged_tensors(data: mmap.mmap, raw: RawHeader, record: FileRecord) -> str:
    with memoryview(data) as view:
        hashes = {name: hashlib.sha256(view[part]).hexdigest() for name, part in raw.parts.items()}
    return ", ".join(name for name, digest in hashes.items() if digest != record.tensors.get(name))


def _check_record(path: Path, raw: RawHeader, record: AnyRecord) -> None:
    """Compare the record of the tensors with the tensors in the file.

    Raises:
        CheckpointError: if they differ, as in a file that somebody has edited.
    """
    if record.tensors.keys() != raw.tensors.keys():
        raise CheckpointError(path, "its record is of other tensors", hint=AGAIN)
    layers = record.layers if isinstance(record, CheckpointRecord) else {}
    for name, layer in layers.items():
        if name not in raw.tensors:
            raise CheckpointError(path, "its layers are not its tensors", hint=AGAIN)
        if layer.shape != raw.tensors[name].shape:
            raise CheckpointError(path, f"its record has {name} in another shape", hint=AGAIN)


def _decode(path: Path, text: str) -> AnyRecord:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise CheckpointError(path, f"its metadata is no JSON ({error})", hint=AGAIN) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            path,
            f"has format version {str(version):.20}; this ntt reads version {FORMAT_VERSION}",
            hint="pip install -U ntt-cli",
        )
    try:
        return _RECORD.validate_python(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(path, f"its metadata is damaged ({where:.200}: {problem['msg']})", hint=AGAIN) from error

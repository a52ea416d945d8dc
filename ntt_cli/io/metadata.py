"""What a checkpoint says about itself, readable without torch: one metadata key, `ntt`, holding sorted JSON."""

from __future__ import annotations

import difflib
import hashlib
import json
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from ntt_cli.errors import CheckpointError

FORMAT_VERSION: Literal[1] = 1
KEY = "ntt"
UNSEALED = "0" * 64
SEAL = b'file_sha256\\":\\"'
"""What stands before the file's own SHA-256 in its header, where the record is JSON in JSON."""

AGAIN = "make the file again"
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


class Record(BaseModel):
    """Base of all records in files."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(Record):
    """Where the network came from; `sha256` is of its Python file, where it has one."""

    source: str
    sha256: str | None


class LayerRecord(Record):
    """One pruned weight: its shape, how many entries are kept, and SHA-256 of its mask's bits, packed big-endian."""

    shape: tuple[int, ...]
    kept: int
    mask_sha256: str


class StandardisationRecord(Record):
    """What raw inputs are standardised with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class FileRecord(Record):
    """What all of ntt's files say.

    Attributes:
        format_version: of the file.
        file_sha256: of the whole file with these 64 digits as zeros, so that no bit of it can change unnoticed.
        tensors: SHA-256 of each tensor's bytes, to name the one that is damaged.
    """

    format_version: Literal[1] = FORMAT_VERSION
    file_sha256: str = UNSEALED
    tensors: dict[str, str]


class CheckpointRecord(FileRecord):
    """Everything under the key `ntt` of a checkpoint."""

    kind: Literal["prune", "finetune"]
    model: ModelRecord
    config: dict[str, Any]
    layers: dict[str, LayerRecord]
    standardisation: StandardisationRecord | None
    run_sha256: str | None = None


class ReportRecord(FileRecord):
    """Everything under the key `ntt` of a report; `summary` is what the command printed with `--json`."""

    kind: Literal["prune report", "finetune report"]
    summary: dict[str, Any]
    run_sha256: str | None = None


class RunRecord(Record):
    """What decides the bytes that a run writes.

    Attributes:
        config: every option that matters, defaults settled.
        model: the network's source.
        weights_sha256: of the file of weights that it starts from, if there is one.
        data_sha256: of some of the samples.
        machine: what the last bits depend on besides.
    """

    config: dict[str, Any]
    model: ModelRecord
    weights_sha256: str | None
    data_sha256: str | None
    machine: dict[str, str]

    @property
    def sha256(self) -> str:
        """Of all but the machine; a finished file carries it as `run_sha256`, and is known by it as this run's."""
        what = self.model_dump(mode="json", exclude={"machine"})
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class StateRecord(FileRecord):
    """Everything under the key `ntt` of an unfinished run's state.

    Attributes:
        run: whose state it is.
        step: steps done.
        values: what of the state is no tensor.
        strides: of the tensors that are laid out in another order than safetensors writes.
    """

    kind: Literal["prune state", "finetune state"]
    run: RunRecord
    step: int
    values: dict[str, Any]
    strides: dict[str, tuple[int, ...]]


class TensorRecord(Record):
    """A tensor's type, in safetensors' spelling, and its shape."""

    dtype: str
    shape: tuple[int, ...]


AnyRecord = CheckpointRecord | ReportRecord | StateRecord

_RECORD: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


def encode_record(record: FileRecord) -> dict[str, str]:
    """The safetensors metadata that holds `record`. One key only: safetensors does not order them."""
    return {KEY: json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)}


def seal(data: bytes) -> bytes:
    """A file whose record came from `encode_record`, with its own SHA-256 put in."""
    start = data.index(SEAL + UNSEALED.encode()) + len(SEAL)
    digest = hashlib.sha256(data).hexdigest().encode()
    return b"".join([data[:start], digest, data[start + len(digest) :]])


@dataclass(frozen=True)
class Header:
    """A safetensors file without its numbers; `record` is `None` for a file that ntt did not write."""

    tensors: dict[str, TensorRecord]
    record: AnyRecord | None


def read_header(path: Path) -> Header:
    """Check the whole file, and read what it says about itself, whichever of ntt's files it is.

    Raises:
        CheckpointError: if the file is missing, unreadable or no safetensors file, or any bit of a file that ntt wrote
            has changed since.
    """
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            path,
            "may hold a pickle, which can run code when it is read",
            hint="convert it where you trust it: safetensors.torch.save_file(model.state_dict(), 'dense.safetensors')",
        )
    if path.is_dir():
        raise CheckpointError(path, "is a folder", hint="name a safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {
                name: TensorRecord(dtype=part.get_dtype(), shape=tuple(part.get_shape()))
                for name, part in sorted(slices.items())
            }
    except FileNotFoundError as error:
        raise CheckpointError(path, "does not exist", hint=_nearby(path)) from error
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(path, f"cannot be read: {reason}", hint="name a safetensors file") from error
    except SafetensorError as error:
        raise CheckpointError(
            path, f"is not a whole safetensors file ({error})", hint="copy or make it again; it may have been cut short"
        ) from error
    record = None if text is None else _decode(path, text)
    _check_whole(path, record)
    return Header(tensors, record)


def _check_whole(path: Path, record: AnyRecord | None) -> None:
    """Compare the file with its own SHA-256.

    Raises:
        CheckpointError: if they differ; it names the tensor, or the header.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        body = 8 + struct.unpack("<Q", data[:8])[0]
        seal_at = data.find(SEAL, 0, body)
        if seal_at < 0 and record is None:
            return  # not ntt's
        start = seal_at + len(SEAL)
        digest = hashlib.sha256(memoryview(data)[:start])
        digest.update(UNSEALED.encode())
        digest.update(memoryview(data)[start + len(UNSEALED) :])
        if seal_at >= 0 and record is not None and digest.hexdigest() == record.file_sha256:
            return
        damaged = "" if record is None else _damaged_tensors(data, body, record)
    raise CheckpointError(
        path,
        f"{damaged or 'its header'} is damaged: the SHA-256 does not match",
        hint="copy the file again, or make it again",
    )


def _damaged_tensors(data: mmap.mmap, body: int, record: FileRecord) -> str:
    header = json.loads(data[8:body])
    header.pop("__metadata__")
    where = {name: slice(*(body + offset for offset in entry["data_offsets"])) for name, entry in header.items()}
    return ", ".join(
        name for name, part in where.items() if hashlib.sha256(data[part]).hexdigest() != record.tensors.get(name)
    )


def _decode(path: Path, text: str) -> AnyRecord:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(path, f"its metadata is no JSON ({error})", hint=AGAIN) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            path,
            f"has format version {version}; this ntt reads version {FORMAT_VERSION}",
            hint="pip install -U ntt-cli",
        )
    try:
        return _RECORD.validate_python(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(path, f"its metadata is damaged ({where}: {problem['msg']})", hint=AGAIN) from error


def _nearby(path: Path) -> str:
    here = [str(other) for other in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(path), here, n=1)
    return f"did you mean {near[0]}?" if near else "check the path"

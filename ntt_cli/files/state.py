"""The state of an unfinished run: tensors and JSON in one hashed safetensors file, beside the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from ntt_cli.errors import CheckpointError, ResumeError
from ntt_cli.files.checkpoint import load_tensors
from ntt_cli.files.hashed import tensor_hashes, write_hashed
from ntt_cli.files.metadata import RunRecord, StateRecord, read_header

Kind = Literal["prune state", "finetune state"]
M = TypeVar("M", bound=BaseModel)
REMEDY = "remove it to start from the beginning"


@dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        step: steps done.
        tensors: on the CPU after reading, with the strides that they had before.
        values: everything that is not a tensor, as JSON.
        where: the file that it was read from.
    """

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    where: str | Path = "the state to go on from"

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named `PREFIX.NAME`, by `NAME`."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}

    def part_like(self, prefix: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors named `PREFIX.NAME`, checked to have the names, shapes and types of `like`.

        torch does not check this everywhere: an optimiser's step would write beyond the end of a shorter tensor.

        Raises:
            ResumeError: if a name, shape or type differs.
        """
        found = self.part(prefix)
        for name in [*like, *(name for name in found if name not in like)]:
            if name not in found:
                raise self.refusal(f"lacks {prefix}.{name:.99}, which this run has")
            if name not in like:
                raise self.refusal(f"holds {prefix}.{name:.99}, which this run has not")
            own, wanted = found[name], like[name]
            if (own.shape, own.dtype) != (wanted.shape, wanted.dtype):
                was, now = (f"{str(v.dtype).removeprefix('torch.')} {list(v.shape)}" for v in (own, wanted))
                raise self.refusal(f"holds {prefix}.{name:.99} as {was:.99}, where this run has {now}")
        return {name: found[name] for name in like}

    def require_finite(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors that are not finite: no run saves such tensors.

        Raises:
            ResumeError: if a tensor of this part is not finite.
        """
        for name, value in tensors.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self.refusal(f"holds {prefix}.{name:.99} with NaN or infinity")

    def require_names(self, *prefixes: str) -> None:
        """Refuse tensors with other prefixes than these.

        Raises:
            ResumeError: if there is such a tensor.
        """
        for name in self.tensors:
            if name.partition(".")[0] not in prefixes:
                raise self.refusal(f"holds {name:.99}, which this run has not")

    def values_as(self, kind: type[M]) -> M:
        """The values as an instance of `kind`, checked.

        Raises:
            ResumeError: if a value is missing, unknown or out of its range.
        """
        try:
            return kind.model_validate(self.values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, ("values", *problem["loc"])))
            raise self.refusal(f"holds {where:.99} that cannot be: {problem['msg']}") from error

    def refusal(self, what: str) -> ResumeError:
        """The error for a state that this run cannot have written."""
        return ResumeError(self.where, f"is no state of this run: it {what}", hint=REMEDY)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that `State.part` expects."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def write_state(path: Path, state: State, *, kind: Kind, run: RunRecord) -> None:
    """Write a state; the previous one stays until this one is complete.

    Raises:
        OutputError: if the file system refuses.
    """
    record = StateRecord(
        kind=kind,
        run=run,
        step=state.step,
        values=dict(state.values),
        strides={name: value.stride() for name, value in state.tensors.items() if _is_permuted(value)},
        tensors=tensor_hashes(state.tensors),
    )
    write_hashed(path, state.tensors, record)


def read_state(path: Path, *, kind: Kind) -> tuple[State, RunRecord]:
    """Read a state, and the record of the run that wrote it.

    Raises:
        ResumeError: if the file is damaged or not such a state.
    """
    try:
        header = read_header(path)
        record = header.record
        if not isinstance(record, StateRecord) or record.kind != kind:
            what = f"is not a {kind} but {record.kind if record else 'of unknown origin'}"
            raise ResumeError(path, what, hint="name another --output")
        tensors = load_tensors(path, header)
    except CheckpointError as error:
        raise ResumeError(path, error.what, hint=REMEDY) from error
    for name, strides in record.strides.items():
        plain = tensors.get(name)
        if plain is None or len(strides) != plain.ndim or not _is_dense(plain.shape, strides):
            raise ResumeError(path, f"{name:.99} cannot be laid out as it says", hint=REMEDY)
        tensors[name] = torch.empty_strided(plain.shape, strides, dtype=plain.dtype).copy_(plain)
    return State(step=record.step, tensors=tensors, values=record.values, where=path), record.run


def _is_permuted(value: Tensor) -> bool:
    """Whether a tensor is dense but not row-major, such as channels last. Layout decides how convolutions round."""
    contiguous = torch.empty(value.shape, device="meta").stride()
    return _is_dense(value.shape, value.stride()) and value.stride() != contiguous


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each entry has its own place in memory, without gaps between them."""
    step, most = 1, max(1, math.prod(shape))
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1 and 0 <= stride <= most:
            continue
        if stride != step:
            return False
        step *= size
    return True

"""The state of an unfinished run: tensors and JSON in one sealed safetensors file, beside the output."""

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
        tensors: on the CPU once read; with the strides that they had.
        values: what is no tensor, as JSON.
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
        """The tensors named `PREFIX.NAME`, which are of the names, shapes and types of these.

        torch looks at none of that everywhere: an optimiser's step writes as far as its parameters reach.

        Raises:
            ResumeError: if they are not.
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
        """Refuse tensors of a part that are not finite: no run saves such.

        Raises:
            ResumeError: if there is one.
        """
        for name, value in tensors.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self.refusal(f"holds {prefix}.{name:.99} with NaN or infinity")

    def require_names(self, *prefixes: str) -> None:
        """Refuse tensors of other kinds than a state of this run has.

        Raises:
            ResumeError: if there is one.
        """
        for name in self.tensors:
            if name.partition(".")[0] not in prefixes:
                raise self.refusal(f"holds {name:.99}, which this run has not")

    def values_as(self, kind: type[M]) -> M:
        """The values, checked.

        Raises:
            ResumeError: if one is missing, unknown or out of its range.
        """
        try:
            return kind.model_validate(self.values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, ("values", *problem["loc"])))
            raise self.refusal(f"holds {where:.99} that cannot be: {problem['msg']}") from error

    def refusal(self, what: str) -> ResumeError:
        """The error for a state that this run cannot have left."""
        return ResumeError(self.where, f"is no state of this run: it {what}", hint=REMEDY)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as `State.part` finds them."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def write_state(path: Path, state: State, *, kind: Kind, run: RunRecord) -> None:
    """Write a state; the one before it stays until this one is whole.

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
    """Read a state, and what the run was that left it.

    Raises:
        ResumeError: if the file is damaged, or holds something else.
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
    """Dense, but in another order, such as channels last: convolutions choose their arithmetic by it."""
    contiguous = torch.empty(value.shape, device="meta").stride()
    return _is_dense(value.shape, value.stride()) and value.stride() != contiguous


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each entry has a place of its own, with none between them."""
    step, most = 1, max(1, math.prod(shape))
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1 and 0 <= stride <= most:
            continue
        if stride != step:
            return False
        step *= size
    return True

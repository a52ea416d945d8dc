"""The state of an unfinished run: tensors and JSON in one sealed safetensors file, beside the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ntt_cli.errors import CheckpointError, ResumeError
from ntt_cli.io.checkpoint import load_tensors
from ntt_cli.io.metadata import RunRecord, StateRecord, read_header
from ntt_cli.io.sealed import tensor_hashes, write_sealed

Kind = Literal["prune state", "finetune state"]


@dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        step: steps done.
        tensors: on the CPU once read; with the strides that they had.
        values: what is no tensor, as JSON.
    """

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named `PREFIX.NAME`, by `NAME`."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


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
    write_sealed(path, state.tensors, record)


def read_state(path: Path, *, kind: Kind) -> tuple[State, RunRecord]:
    """Read a state, and what the run was that left it.

    Raises:
        ResumeError: if the file is damaged, or holds something else.
    """
    remedy = "remove it to start from the beginning"
    try:
        header = read_header(path)
        record = header.record
        if not isinstance(record, StateRecord) or record.kind != kind:
            what = f"is not a {kind} but {record.kind if record else 'of unknown origin'}"
            raise ResumeError(path, what, hint="name another --output")
        tensors = load_tensors(path, header)
    except CheckpointError as error:
        raise ResumeError(path, error.what, hint=remedy) from error
    for name, strides in record.strides.items():
        plain = tensors.get(name)
        if plain is None or len(strides) != plain.ndim or _extent(plain.shape, strides) != plain.numel():
            raise ResumeError(path, f"{name:.99} cannot be laid out as it says", hint=remedy)
        tensors[name] = torch.empty_strided(plain.shape, strides, dtype=plain.dtype).copy_(plain)
    return State(step=record.step, tensors=tensors, values=record.values), record.run


def _is_permuted(value: Tensor) -> bool:
    """Dense, but in another order, such as channels last: convolutions choose their arithmetic by it."""
    contiguous = torch.empty(value.shape, device="meta").stride()
    return value.numel() == _extent(value.shape, value.stride()) and value.stride() != contiguous


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Entries from the first to the last in memory."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))

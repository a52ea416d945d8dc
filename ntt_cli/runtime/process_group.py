"""The processes that `torchrun` starts for one run: each takes its share of every batch, and their results are summed.

The network stays unwrapped: forward-mode derivatives do not pass through `DistributedDataParallel`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from ntt_cli.errors import LostError, UsageError
from ntt_cli.tensors import Params

TIMEOUT = timedelta(minutes=30)
"""How long the other processes wait for the first one while it measures or saves."""


@dataclass(frozen=True)
class ProcessGroup:
    """One of `size` processes that work on the same run; exchanges raise a `LostError` if another one has ended."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process chooses the masks and writes the files."""
        return self.rank == 0

    def require(self, samples: int) -> None:
        """Refuse batches, or halves of batches, that give a process no sample."""
        if samples < self.size:
            raise UsageError(
                "--batch-size", f"leaves {samples} samples to {self.size} processes at once", hint="raise it"
            )

    def require_one(self, asked: bool, option: str) -> None:
        """Refuse an option, if `asked` for, that works only in a single process."""
        if asked and self.size > 1:
            raise UsageError(option, "works in one process alone", hint="leave it out under torchrun")

    def share(self, values: Tensor) -> Tensor:
        """This process's share of the rows."""
        return values[self.rank :: self.size]

    def all_reduce(self, tensors: Params) -> Params:
        """Each tensor's sum over all processes, the same to the bit in each.

        All processes call it at the same places, in the same order. With one process it returns the same tensors.
        """
        if self.size == 1 or not tensors:
            return tensors
        flat = torch.cat([value.detach().reshape(-1) for value in tensors.values()])
        self._communicate(partial(dist.all_reduce, flat))
        parts = flat.split([value.numel() for value in tensors.values()])
        # A sum has the memory layout of its tensor, even channels last: fused optimisers read memory in order.
        return {
            name: torch.empty_like(value).copy_(part.view(value.shape))
            for (name, value), part in zip(tensors.items(), parts, strict=True)
        }

    def broadcast(self, tensors: Params) -> Params:
        """The first process's tensors, in every process."""
        if self.size == 1:
            return tensors
        found = {}
        for name, value in tensors.items():
            # Contiguous, because memory is sent in its order; as bytes, because gloo does not support all types.
            plain = value.detach().clone(memory_format=torch.contiguous_format)
            if plain.numel():
                self._communicate(partial(dist.broadcast, plain.view(-1).view(torch.uint8), src=0))
            found[name] = torch.empty_like(value).copy_(plain)
        return found

    def maximum(self, number: int) -> int:
        """The largest of the processes' numbers, in every process."""
        if self.size == 1:
            return number
        value = torch.tensor([number])
        self._communicate(partial(dist.all_reduce, value, op=dist.ReduceOp.MAX))
        return int(value)

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Generator[None]:
        """Connect the processes, and disconnect them at the end."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # gloo, which sends CPU tensors, notices at once when a process has ended.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self._communicate(partial(dist.init_process_group, backend, timeout=TIMEOUT))
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextlib.contextmanager
    def starting(self) -> Generator[None]:
        """While each process prepares its work: if one process fails, the others raise a `LostError`."""
        try:
            yield
        except Exception:
            with contextlib.suppress(LostError):
                self.maximum(1)
            raise
        if self.maximum(0):
            raise LostError(
                f"process {self.rank} of {self.size}", "cannot start without the others", hint="see what those said"
            )

    def _communicate(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            what = f"cannot reach the others: {next(iter(str(error).splitlines()), '')}"
            hint = "see what the process that ended first said; then go on with --resume"
            raise LostError(f"process {self.rank} of {self.size}", what, hint=hint) from error


SINGLE = ProcessGroup()


def this_process_group() -> ProcessGroup:
    """The group that `torchrun` describes in the environment; without it, one process."""
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if None in given.values():
        return SINGLE
    try:
        return ProcessGroup(int(given["RANK"] or ""), int(given["WORLD_SIZE"] or ""))
    except ValueError as error:
        what = "is no process of a run"
        hint = "start several processes with torchrun, and one without these variables"
        raise UsageError(" ".join(f"{name}={value}" for name, value in given.items()), what, hint=hint) from error

"""The processes that `torchrun` starts for one run: each takes its share of a batch, and they add up what they found.

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
from ntt_cli.runtime.sharing import Sum, alone
from ntt_cli.tensors import Params

PATIENCE = timedelta(minutes=30)
"""For the first process to measure or save something while the others wait for it."""


@dataclass(frozen=True)
class ProcessGroup:
    """One of `size` processes that work on the same run.

    Attributes:
        rank: which, from 0; the first chooses the masks and writes the files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process chooses and writes."""
        return self.rank == 0

    def require(self, samples: int) -> None:
        """Refuse batches, or halves of them, that leave a process without a sample.

        Raises:
            UsageError: if there are fewer samples than processes.
        """
        if samples < self.size:
            raise UsageError(
                "--batch-size", f"leaves {samples} samples to {self.size} processes at once", hint="raise it"
            )

    def require_one(self, asked: bool, option: str) -> None:
        """Refuse an option that works in one process alone.

        Raises:
            UsageError: if it is asked for, and there are several.
        """
        if asked and self.size > 1:
            raise UsageError(option, "works in one process alone", hint="leave it out under torchrun")

    def share(self, values: Tensor) -> Tensor:
        """This process's rows."""
        return values[self.rank :: self.size]

    def sum(self, tensors: Params) -> Params:
        """Each tensor's sum over all processes, bit for bit the same in all of them.

        Raises:
            LostError: if another process has ended.
        """
        if self.size == 1 or not tensors:
            return tensors
        flat = torch.cat([value.detach().reshape(-1) for value in tensors.values()])
        self._together(partial(dist.all_reduce, flat))
        parts = flat.split([value.numel() for value in tensors.values()])
        # In each one's own layout, channels last too: fused optimisers go through gradients as their memory lies.
        return {
            name: torch.empty_like(value).copy_(part.view(value.shape))
            for (name, value), part in zip(tensors.items(), parts, strict=True)
        }

    @property
    def total(self) -> Sum:
        """`sum`, known to be that of one process where it is."""
        return alone if self.size == 1 else self.sum

    def from_first(self, tensors: Params) -> Params:
        """The first process's tensors, in all of them.

        Raises:
            LostError: if another process has ended.
        """
        if self.size == 1:
            return tensors
        found = {}
        for name, value in tensors.items():
            # In one layout, and as bytes: what travels is memory as it lies, and gloo does not know all types.
            plain = value.detach().clone(memory_format=torch.contiguous_format)
            if plain.numel():
                self._together(partial(dist.broadcast, plain.view(-1).view(torch.uint8), src=0))
            found[name] = torch.empty_like(value).copy_(plain)
        return found

    def most(self, number: int) -> int:
        """The largest of the processes' numbers.

        Raises:
            LostError: if another process has ended.
        """
        if self.size == 1:
            return number
        value = torch.tensor([number])
        self._together(partial(dist.all_reduce, value, op=dist.ReduceOp.MAX))
        return int(value)

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Generator[None]:
        """While the processes work together.

        Yields:
            nothing.

        Raises:
            LostError: if another process has ended.
        """
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # gloo, for what is on the CPU, finds at once that a process has ended.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self._together(partial(dist.init_process_group, backend, timeout=PATIENCE))
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextlib.contextmanager
    def starting(self) -> Generator[None]:
        """While each process prepares its work: if that fails in one of them, the others end too.

        Yields:
            nothing.

        Raises:
            LostError: if it failed in another.
        """
        try:
            yield
        except Exception:
            with contextlib.suppress(LostError):
                self.most(1)
            raise
        if self.most(0):
            raise LostError(
                f"process {self.rank} of {self.size}", "cannot start without the others", hint="see what those said"
            )

    def _together(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            raise LostError(
                f"process {self.rank} of {self.size}",
                f"cannot reach the others: {next(iter(str(error).splitlines()), '')}",
                hint="see what the process that ended first said; then go on with --resume",
            ) from error


SINGLE = ProcessGroup()


def this_process_group() -> ProcessGroup:
    """What `torchrun` says in the environment; one process without it.

    Raises:
        UsageError: if the environment makes no sense.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if None in given.values():
        return SINGLE
    try:
        return ProcessGroup(int(given["RANK"] or ""), int(given["WORLD_SIZE"] or ""))
    except ValueError as error:
        raise UsageError(
            " ".join(f"{name}={value}" for name, value in given.items()),
            "is no process of a run",
            hint="start several processes with torchrun, and one without these variables",
        ) from error

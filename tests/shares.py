"""Processes that share a batch, one after the other in this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.process_group import ProcessGroup
from ntt_cli.tensors import Params

T = TypeVar("T")


@dataclass(frozen=True)
class RecordedGroup(ProcessGroup):
    """A process that notes what it would send, and gets the sums of the time before.

    Attributes:
        known: the sums of the time before, in the order of the calls.
        said: what this process sent.
    """

    known: list[Params] = field(default_factory=list)
    said: list[Params] = field(default_factory=list)

    def all_reduce(self, tensors: Params) -> Params:
        self.said.append({name: value.detach().clone() for name, value in tensors.items()})
        place = len(self.said) - 1
        sums = self.known[place] if place < len(self.known) else tensors
        return {name: value.clone() for name, value in sums.items()}  # the caller may change them


def in_shares(work: Callable[[Execution], T], *, size: int = 2) -> list[T]:
    """What each of `size` processes gets from `work(execution)`.

    No process can know what the others have not sent yet. So all of them work again and again, each time with the sums
    of the time before, until these no longer change: each time makes one more of them right.
    """
    known: list[Params] = []
    while True:
        groups = [RecordedGroup(rank, size, known) for rank in range(size)]
        results = [work(Execution(group=group)) for group in groups]
        said = zip(*(group.said for group in groups), strict=True)
        sums = [{name: sum(own[name] for own in parts) for name in parts[0]} for parts in said]
        if len(sums) == len(known) and all(
            torch.equal(new[name], old[name]) for new, old in zip(sums, known, strict=True) for name in new
        ):
            return results
        known = sums

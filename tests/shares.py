"""Processes that share a batch, one after the other in this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ntt_cli.runtime.sharing import Sum
from ntt_cli.tensors import Params

T = TypeVar("T")


def in_shares(work: Callable[[int, Sum], T], *, size: int = 2) -> list[T]:
    """What each of `size` processes gets from `work(rank, total)`.

    Nobody can hear what the others have not said yet. So all of them work again and again, each time with the sums of
    the time before, until these no longer change: each time makes one more of them right.
    """
    known: list[Params] = []
    while True:
        said: list[list[Params]] = []
        results = [work(rank, _recorder(known, said)) for rank in range(size)]
        sums = [{name: sum(own[name] for own in parts) for name in parts[0]} for parts in zip(*said, strict=True)]
        if len(sums) == len(known) and all(
            torch.equal(new[name], old[name]) for new, old in zip(sums, known, strict=True) for name in new
        ):
            return results
        known = sums


def _recorder(known: list[Params], said: list[list[Params]]) -> Sum:
    own: list[Params] = []
    said.append(own)

    def total(tensors: Params) -> Params:
        own.append({name: value.detach().clone() for name, value in tensors.items()})
        place = len(own) - 1
        heard = known[place] if place < len(known) else tensors
        return {name: value.clone() for name, value in heard.items()}  # whoever hears them may change them

    return total

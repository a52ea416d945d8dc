from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ntt_cli.errors import UsageError
from ntt_cli.runtime.events import Event, Warned
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.micro_batching import MicroBatching

ON_THE_CPU = "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried …"


def fits(most: int, error: Exception) -> Callable[[Execution], int]:
    def work(execution: Execution) -> int:
        if (execution.micro_batch or 32) > most:
            raise error
        return execution.micro_batch or 32

    return work


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError(ON_THE_CPU), MemoryError()])
def test_a_quarter_as_many_go_through_once_memory_ran_out(error: Exception) -> None:
    events: list[Event] = []
    micro_batching = MicroBatching(None, 64, events.append)
    assert micro_batching.run(fits(8, error)) == 8
    assert events == [Warned("memory ran out; going on with --micro-batch 8")]
    assert micro_batching.run(fits(8, error)) == 8
    assert len(events) == 1


def test_a_second_time_is_an_error() -> None:
    micro_batching = MicroBatching(8, 64, lambda _: None)
    with pytest.raises(UsageError, match="--micro-batch 2: does not fit into memory: full") as caught:
        micro_batching.run(fits(1, torch.OutOfMemoryError("full\nthe rest")))
    assert caught.value.hint == "try --micro-batch 1 or another --device"


def test_one_sample_is_the_least() -> None:
    with pytest.raises(UsageError, match="--micro-batch 1: does not fit into memory: MemoryError") as caught:
        MicroBatching(1, 64, lambda _: None).run(fits(0, MemoryError()))
    assert caught.value.hint == "try a smaller --image-size or another --device"


def test_what_else_goes_wrong_is_not_tried_again() -> None:
    calls = []

    def work(execution: Execution) -> None:
        calls.append(execution.micro_batch)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        MicroBatching(None, 64, lambda _: None).run(work)
    assert calls == [None]

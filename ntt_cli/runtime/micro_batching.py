"""Micro-batches: when memory runs out, the work is repeated with fewer samples at once, and a warning says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ntt_cli.errors import UsageError
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.execution import Execution

Result = TypeVar("Result")


@dataclass
class MicroBatching:
    """How many samples go through the network at once. When memory first runs out, a quarter as many do.

    Attributes:
        micro_batch: number of samples; `None` for half a batch.
        batch_size: samples a step.
        on_event: receives a warning when the micro-batch becomes smaller.
        fixed: the micro-batch never becomes smaller, because no process of a group may repeat a step.
    """

    micro_batch: int | None
    batch_size: int
    on_event: EventSink
    fixed: bool = False
    _lowered: bool = False

    def run(self, work: Callable[[Execution], Result], execution: Execution = Execution()) -> Result:
        """The result of `work`, which changes nothing until it has finished, so that it can be called again.

        If memory runs out, that is with a smaller micro-batch.

        Raises:
            UsageError: if memory runs out once more.
        """
        try:
            return work(replace(execution, micro_batch=self.micro_batch))
        except (RuntimeError, MemoryError) as error:
            self._lower(error)
        # Outside of the handler, because the error's traceback keeps the tensors that did not fit.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.run(work, execution)

    @property
    def largest(self) -> int:
        """Samples that go through the network at once, at most."""
        return self.micro_batch or math.ceil(self.batch_size / 2)

    def state(self) -> dict[str, int | bool | None]:
        """As JSON, for the state of a run."""
        return {"chunk": self.micro_batch, "lowered": self._lowered}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.micro_batch, self._lowered = state["chunk"], state["lowered"]

    def _lower(self, error: Exception) -> None:
        if not is_out_of_memory(error):
            raise error
        now = self.largest
        if self._lowered or self.fixed or now == 1:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            smaller = "a smaller --image-size" if now == 1 else f"--micro-batch {max(1, now // 4)}"
            hint = f"try {smaller} or another --device"
            raise UsageError(f"--micro-batch {now}", f"does not fit into memory: {reason}", hint=hint) from error
        self.micro_batch = max(1, now // 4)
        self._lowered = True
        self.on_event(Warned(f"memory ran out; going on with --micro-batch {self.micro_batch}"))


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error means that a device or the machine ran out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

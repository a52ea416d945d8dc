"""What to do when memory runs out: put fewer samples through the network at once, and say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ntt_cli.errors import UsageError
from ntt_cli.runtime.events import EventSink, Warned

Result = TypeVar("Result")


@dataclass
class MicroBatching:
    """How many samples go through the network at once: a quarter as many from when memory first runs out.

    Attributes:
        chunk: that many; `None` for half a batch.
        batch_size: samples a step.
        on_event: told when there are fewer.
        fixed: there are never fewer; of processes that work together none may begin a step again.
    """

    chunk: int | None
    batch_size: int
    on_event: EventSink
    fixed: bool = False
    _lowered: bool = False

    def run(self, work: Callable[[int | None], Result]) -> Result:
        """Do some work that changes nothing before it is done, `work(chunk)`; again with less if memory runs out.

        Raises:
            UsageError: if memory runs out once more.
        """
        try:
            return work(self.chunk)
        except (RuntimeError, MemoryError) as error:
            self._lower(error)
        # Outside of the handler: the error's traceback holds on to the tensors that did not fit.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.run(work)

    def state(self) -> dict[str, int | bool | None]:
        """As JSON."""
        return {"chunk": self.chunk, "lowered": self._lowered}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As `state` told."""
        self.chunk, self._lowered = state["chunk"], state["lowered"]

    def _lower(self, error: Exception) -> None:
        if not is_out_of_memory(error):
            raise error
        now = self.chunk or math.ceil(self.batch_size / 2)
        if self._lowered or self.fixed or now == 1:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            smaller = "a smaller --image-size" if now == 1 else f"--micro-batch {max(1, now // 4)}"
            raise UsageError(
                f"--micro-batch {now}",
                f"does not fit into memory: {reason}",
                hint=f"try {smaller} or another --device",
            ) from error
        self.chunk = max(1, now // 4)
        self._lowered = True
        self.on_event(Warned(f"memory ran out; going on with --micro-batch {self.chunk}"))


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is a device, or the machine, that has no more memory to give."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

"""How passes through a network are carried out: how many samples at once, in which processes, with which graphs."""

from __future__ import annotations

from dataclasses import dataclass

from ntt_cli.runtime.process_group import SINGLE, ProcessGroup
from ntt_cli.tensors import Params


@dataclass(frozen=True)
class Execution:
    """How to carry out passes. It changes time and memory; results change by rounding alone.

    Attributes:
        micro_batch: samples that go through the network at once; `None` for half a batch.
        group: the processes that share each batch.
        keep_graph: keep the graph of one pass for its second use, which takes less time and more memory.
    """

    micro_batch: int | None = None
    group: ProcessGroup = SINGLE
    keep_graph: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether one process takes each half of a batch in one pass."""
        return self.micro_batch is None and self.group.size == 1

    def all_reduce(self, tensors: Params) -> Params:
        """Each tensor's sum over the processes; the same tensors where there is one process."""
        return self.group.all_reduce(tensors)

"""The objects that all functions of a run share."""

from __future__ import annotations

from dataclasses import dataclass

from ntt_cli.runs.checkpointer import RunCheckpointer
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.process_group import ProcessGroup
from ntt_cli.runtime.signals import Stop


@dataclass(frozen=True)
class Run:
    """One run of `ntt prune` or `ntt finetune`; its checkpointer may have a state to go on from."""

    on_event: EventSink
    checkpointer: RunCheckpointer
    micro_batching: MicroBatching

    @property
    def group(self) -> ProcessGroup:
        return self.checkpointer.group

    @property
    def stop(self) -> Stop:
        return self.checkpointer.stop

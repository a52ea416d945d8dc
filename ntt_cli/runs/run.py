"""What a run carries along."""

from __future__ import annotations

from dataclasses import dataclass

from ntt_cli.runs.checkpointer import RunCheckpointer
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.process_group import ProcessGroup


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        on_event: told of progress.
        group: the processes that work on it.
        micro_batching: how many samples go through the network at once.
        checkpointer: of its state.
    """

    on_event: EventSink
    group: ProcessGroup
    micro_batching: MicroBatching
    checkpointer: RunCheckpointer

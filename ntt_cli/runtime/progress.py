"""Progress from a workflow's events: the current values, and plain lines that show them. Needs no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ntt_cli.results import metric_words, shown_metric
from ntt_cli.runtime import events
from ntt_cli.runtime.events import Event, EventSink, Noted, Warned

PLAIN_SECONDS = 10.0
"""Seconds between two lines, unless an event needs a line at once."""


@dataclass
class Board:
    """The current progress: a title, the units done, and named values; in a transfer also its layers.

    An earlier process did the first `begun` units.
    """

    title: str = ""
    unit: str = "step"
    begun: int = 0
    done: int = 0
    total: int = 0
    values: dict[str, str] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)

    def take(self, event: Event) -> bool:
        """Take in an event, and return whether it needs a plain line at once."""
        match event:
            case events.TransferStarted():
                self.title, self.unit, self.total = "Neural Tangent Transfer", "step", event.steps
                self.done = self.begun = event.done
                self.layers = dict.fromkeys(event.layers, 1.0)
            case events.MasksUpdated():
                self.done = event.step
                self.values["density"] = f"{event.density:.2%}"
                self.values["mask changes"] = f"{event.changes:,}"
                self.layers = event.layer_densities
            case events.StepsDone():
                self.done = event.step
                if event.kernel_distance is not None:
                    self.values["kernel distance"] = f"{event.kernel_distance:.4f}"
                self.values["output distance"] = f"{event.logit_distance:.4f}"
            case events.Validated():
                self.values["validation distance"] = f"{event.distance:.4f}"
                self.total = event.ends or self.total
                return event.ends is not None
            case events.TrainingStarted():
                self.title, self.total = "Training", event.epochs * event.steps_per_epoch
                self.done = self.begun = event.done
            case events.TrainingStepsDone():
                self.done = event.step
                self.values["loss"] = f"{event.loss:.4f}"
            case events.EpochDone():
                self.values["epoch"] = str(event.epoch)
                if event.value is not None:
                    self.values[f"validation {metric_words(event.metric)}"] = shown_metric(event.metric, event.value)
                return True
            case events.Evaluated():
                self.title, self.unit, self.done, self.total = "Evaluation", "sample", event.done, event.total
            case events.Compared():
                self.title, self.unit, self.done, self.total = "Bench", "comparison", event.done, event.total
            case events.TrialsChanged():
                self.title, self.unit = "Comparison", "trial"
                self.done, self.total = event.done + event.failed, event.total
                self.values["running"] = ", ".join(event.running) or "none"
                self.values["failed"] = str(event.failed)
                return bool(event.running) or self.done == self.total
        return self.total > 0 and self.done == self.total


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def progress_lines(say: Callable[[str], None] = _to_stderr, warn: Callable[[str], None] | None = None) -> EventSink:
    """A sink for events that writes the progress now and then as a line.

    Args:
        say: writes a line, by default to stderr.
        warn: writes a warning, by default as a line too.
    """
    board, begun, last = Board(), time.monotonic(), 0.0

    def take(event: Event) -> None:
        nonlocal last
        if isinstance(event, Warned):
            (warn or say)(event.message if warn else f"warning: {event.message}")
            return
        if isinstance(event, Noted):
            say(event.message)
            return
        now = time.monotonic() - begun
        if board.take(event) or now - last >= PLAIN_SECONDS:
            last = now
            done = board.done - board.begun
            left = now / done * (board.total - board.done) if done else None
            values = "".join(f" · {name} {value}" for name, value in board.values.items())
            ending = f" · {left:.0f} s left" if left else f" · {now:.0f} s"
            say(f"{board.unit} {board.done:,}/{board.total:,}{values}{ending}")

    return take

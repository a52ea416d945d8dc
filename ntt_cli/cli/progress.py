"""Progress on stderr: a live panel on a terminal, one plain line now and then elsewhere, nothing with --quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ntt_cli.cli.streams import Streams
from ntt_cli.runtime.events import (
    EpochDone,
    Evaluated,
    Event,
    EventSink,
    MasksUpdated,
    Noted,
    StepsDone,
    TrainingStarted,
    TrainingStepsDone,
    TransferStarted,
    TrialsChanged,
    Validated,
    Warned,
)

PLAIN_SECONDS = 10.0
OTHER_ROWS = 8
"""Rows of the panel that are not layers."""


@dataclass
class Board:
    """What is known now: a title, how far the work is, and named values; the transfer adds its layers.

    `begun` units were done by an earlier process.
    """

    title: str = ""
    unit: str = "step"
    begun: int = 0
    done: int = 0
    total: int = 0
    values: dict[str, str] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)

    def take(self, event: Event) -> bool:
        """Note an event, and tell whether it is worth a plain line at once."""
        match event:
            case TransferStarted():
                self.title, self.unit, self.total = "Neural Tangent Transfer", "step", event.steps
                self.done = self.begun = event.done
                self.layers = dict.fromkeys(event.layers, 1.0)
            case MasksUpdated():
                self.done = event.step
                self.values["density"] = f"{event.density:.2%}"
                self.values["mask changes"] = f"{event.changes:,}"
                self.layers = event.layer_densities
            case StepsDone():
                self.done = event.step
                if event.kernel_distance is not None:
                    self.values["kernel distance"] = f"{event.kernel_distance:.4f}"
                self.values["logit distance"] = f"{event.logit_distance:.4f}"
            case Validated():
                self.values["validation distance"] = f"{event.distance:.4f}"
                self.total = event.ends or self.total
                return event.ends is not None
            case TrainingStarted():
                self.title, self.total = "Training", event.epochs * event.steps_per_epoch
                self.done = self.begun = event.done
            case TrainingStepsDone():
                self.done = event.step
                self.values["loss"] = f"{event.loss:.4f}"
            case EpochDone():
                self.values["epoch"] = str(event.epoch)
                if event.accuracy is not None:
                    self.values["validation accuracy"] = f"{event.accuracy:.2%}"
                return True
            case Evaluated():
                self.title, self.unit, self.done, self.total = "Evaluation", "sample", event.done, event.total
            case TrialsChanged():
                self.title, self.unit = "Comparison", "trial"
                self.done, self.total = event.done + event.failed, event.total
                self.values["running"] = ", ".join(event.running) or "none"
                self.values["failed"] = str(event.failed)
                return bool(event.running) or self.done == self.total
        return self.total > 0 and self.done == self.total


@contextmanager
def progress(streams: Streams) -> Generator[EventSink]:
    """A sink for a workflow's events.

    Yields:
        the sink.
    """
    if streams.quiet:
        yield lambda event: streams.warn(event.message) if isinstance(event, Warned) else None
    elif streams.err.is_terminal and not streams.err.is_dumb_terminal:
        panel = LivePanel(streams.err)
        with Live(get_renderable=panel.render, console=streams.err, refresh_per_second=8, transient=True):
            yield panel.take
    else:
        yield _plain(streams)


class LivePanel:
    """The board as a panel: progress, values, and a bar for each layer's density."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.board = Board()
        self.bar = Progress(
            TextColumn("{task.completed:,}/{task.total:,} {task.description}s"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self.task = self.bar.add_task("step", total=None, visible=False)

    def take(self, event: Event) -> None:
        """Note an event."""
        if isinstance(event, Warned):
            self.console.print(Text.assemble(("warning", "bold yellow"), ": ", event.message), soft_wrap=True)
            return
        if isinstance(event, Noted):
            self.console.print(Text(event.message), soft_wrap=True)
            return
        self.board.take(event)
        if isinstance(event, TransferStarted | TrainingStarted):
            self.bar.reset(
                self.task, total=self.board.total, completed=self.board.done, description=self.board.unit, visible=True
            )
        self.bar.update(
            self.task,
            completed=self.board.done,
            total=self.board.total,
            description=self.board.unit,
            visible=self.board.total > 0,
        )

    def render(self) -> RenderableType:
        """The panel now."""
        if not self.board.total:
            return Text("preparing …", style="dim")
        values = Table.grid(padding=(0, 3))
        values.add_row(*(Text(name, style="dim") for name in self.board.values))
        values.add_row(*(Text(value, style="bold") for value in self.board.values.values()))
        parts: list[RenderableType] = [self.bar, values]
        if self.board.layers:
            parts += [Text(), self._layer_table()]
        return Panel(Group(*parts), title=self.board.title, title_align="left", border_style="cyan", expand=True)

    def _layer_table(self) -> Table:
        room = max(1, self.console.height - OTHER_ROWS)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True, max_width=max(12, self.console.width // 3))
        table.add_column(justify="right")
        table.add_column(ratio=1)
        for name, density in list(self.board.layers.items())[:room]:
            table.add_row(name, f"{density:.1%}", ProgressBar(total=1.0, completed=density, complete_style="cyan"))
        if (hidden := len(self.board.layers) - room) > 0:
            table.add_row(Text(f"and {hidden} more layers", style="dim"))
        return table


def _plain(streams: Streams) -> Callable[[Event], None]:
    board, begun, last = Board(), time.monotonic(), 0.0

    def take(event: Event) -> None:
        nonlocal last
        if isinstance(event, Warned):
            streams.warn(event.message)
            return
        if isinstance(event, Noted):
            streams.say(event.message)
            return
        now = time.monotonic() - begun
        if board.take(event) or now - last >= PLAIN_SECONDS:
            last = now
            done = board.done - board.begun
            left = now / done * (board.total - board.done) if done else None
            values = "".join(f" · {name} {value}" for name, value in board.values.items())
            ending = f" · {left:.0f} s left" if left else f" · {now:.0f} s"
            streams.say(f"{board.unit} {board.done:,}/{board.total:,}{values}{ending}")

    return take

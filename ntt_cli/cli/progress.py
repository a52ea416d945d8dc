"""Progress on stderr: a live panel on a terminal, one plain line now and then elsewhere, nothing with --quiet."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ntt_cli.cli.streams import Streams
from ntt_cli.runtime.events import Event, EventSink, Noted, TrainingStarted, TransferStarted, Warned
from ntt_cli.runtime.progress import Board, progress_lines

OTHER_ROWS = 8
"""The number of rows of the panel that are not layers."""


@contextmanager
def progress(streams: Streams) -> Generator[EventSink]:
    """A sink for a workflow's events."""
    if streams.quiet:
        yield lambda event: streams.warn(event.message) if isinstance(event, Warned) else None
    elif streams.err.is_terminal and not streams.err.is_dumb_terminal:
        panel = LivePanel(streams.err)
        with Live(get_renderable=panel.render, console=streams.err, refresh_per_second=8, transient=True):
            yield panel.take
    else:
        yield progress_lines(streams.say, streams.warn)


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
        if isinstance(event, Warned):
            self.console.print(Text.assemble(("warning", "bold yellow"), ": ", event.message), soft_wrap=True)
            return
        if isinstance(event, Noted):
            self.console.print(Text(event.message), soft_wrap=True)
            return
        task, board = self.task, self.board
        board.take(event)
        if isinstance(event, TransferStarted | TrainingStarted):
            self.bar.reset(task, completed=board.done)
        self.bar.update(task, completed=board.done, total=board.total, description=board.unit, visible=board.total > 0)

    def render(self) -> RenderableType:
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
        rows = max(1, self.console.height - OTHER_ROWS)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True, max_width=max(12, self.console.width // 3))
        table.add_column(justify="right")
        table.add_column(ratio=1)
        for name, density in list(self.board.layers.items())[:rows]:
            table.add_row(name, f"{density:.1%}", ProgressBar(total=1.0, completed=density, complete_style="cyan"))
        if (hidden := len(self.board.layers) - rows) > 0:
            table.add_row(Text(f"and {hidden} more layers", style="dim"))
        return table

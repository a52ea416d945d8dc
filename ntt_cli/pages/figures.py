"""What a page shows, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ntt_cli.pages.bounds import MOST_ROWS, and_more, shown

Numbers = NDArray[np.float64]
Form = Literal["line", "marked", "dots", "bars"]

TICK_LETTERS = 60
"""The most letters of a name in a plot, which needs room for the curves."""


@dataclass(frozen=True)
class Series:
    """Values `[k]` under one label, which has one colour in the whole figure.

    `spread` is half the height of a band around `y`.
    """

    label: str
    x: Numbers
    y: Numbers
    spread: Numbers | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One coordinate system.

    Attributes:
        form: `line`; `marked`, a line with a marker at every value; `dots` and `bars`, one row for each name in
            `ticks`, counted from above, with the values along `x`.
        ticks: positions and names on the axis of names, `x` for lines and `y` for dots and bars.
        floor: where the `y` axis begins; what is below leaves the frame.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    form: Form = "line"
    ticks: tuple[tuple[float, str], ...] = ()
    log: Literal["", "x", "y", "xy"] = ""
    reversed: bool = False
    floor: float | None = None


@dataclass(frozen=True)
class Figure:
    """Panels that belong together. `name` is for files and links, like `accuracy`; `caption` says how to read it."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def description(self) -> str:
        """Where each series of each panel begins and ends, for those who do not see it."""
        sentences = []
        for panel in self.panels:
            parts = [_course(series, panel) for series in panel.series if series.y.size]
            sentences.append(f"{panel.title}: {'; '.join(parts)}.")
        return " ".join(sentences)


@dataclass(frozen=True)
class Table:
    """A table; `strong` names cells by row and column, counted from 0."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Page:
    """A page: a few facts, tables and figures; `labels` have the same colours in all of its figures."""

    title: str
    facts: dict[str, str]
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    labels: tuple[str, ...] = ()


def bounded(page: Page) -> Page:
    """The page with long names shortened and long tables cut, so that it can be drawn and read."""
    return replace(
        page,
        title=shown(page.title),
        facts={shown(name): shown(value) for name, value in page.facts.items()},
        tables=tuple(map(_short_table, page.tables)),
        figures=tuple(replace(figure, panels=tuple(map(_short_panel, figure.panels))) for figure in page.figures),
        labels=tuple(shown(label, TICK_LETTERS) for label in page.labels),
    )


def _short_table(table: Table) -> Table:
    rows = tuple(tuple(map(shown, row)) for row in table.rows[:MOST_ROWS])
    if len(table.rows) > MOST_ROWS:
        rows += ((and_more(len(table.rows)), *[""] * (len(table.head) - 1)),)
    return replace(table, rows=rows)


def _short_panel(panel: Panel) -> Panel:
    series = [replace(one, label=shown(one.label, TICK_LETTERS)) for one in panel.series]
    ticks = tuple((place, shown(name, TICK_LETTERS)) for place, name in panel.ticks[:MOST_ROWS])
    title = panel.title
    if len(panel.ticks) > MOST_ROWS:
        title = f"{title} {and_more(len(panel.ticks))}"
        places = [place for place, _ in ticks]
        series = [_at_places(one, places, panel.form) for one in series]
    return replace(panel, title=title, series=tuple(series), ticks=ticks)


def _at_places(series: Series, places: list[float], form: Form) -> Series:
    kept = np.isin(series.y if form in {"dots", "bars"} else series.x, places)
    spread = None if series.spread is None else series.spread[kept]
    return replace(series, x=series.x[kept], y=series.y[kept], spread=spread)


def _course(series: Series, panel: Panel) -> str:
    if panel.form in {"dots", "bars"}:
        names = dict(panel.ticks)
        rows = zip(series.x, series.y, strict=True)
        return ", ".join(f"{names.get(float(y), series.label)} {x:.4g}" for x, y in rows)
    if series.y.size == 1:
        return f"{series.label} {series.y[0]:.4g}"
    return f"{series.label} from {series.y[0]:.4g} to {series.y[-1]:.4g}"

"""What a page shows, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ntt_cli.pages.bounds import MOST_LETTERS_OF_TEXT, MOST_ROWS, and_more, shown

Numbers = NDArray[np.float64]
Form = Literal["line", "marked", "dots", "layers"]

TICK_LETTERS = 28
"""The most letters of a name in a plot, which needs room for the curves on a phone too."""


@dataclass(frozen=True)
class Series:
    """Values `[k]` under one label, which has one colour in the whole figure, and is written at the line's end.

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
        form: `line`; `marked`, a line with a marker at every value; `dots`, one row for each name in `ticks`, counted
            from above, with the values along `x`; `layers`, such rows of two series: the entries of each layer, and
            how many of them are kept.
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

    @property
    def description(self) -> str:
        """Where each series begins and ends, for those who do not see it."""
        parts = [_course(series, self) for series in self.series if series.y.size]
        if self.form == "layers":
            size, kept = self.series
            rows = zip(dict(self.ticks).values(), kept.x, size.x, strict=True)
            parts = [f"{name} keeps {some:,.0f} of {of:,.0f}" for name, some, of in rows]
        return f"{self.title}: {'; '.join(parts)}."


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
        return " ".join(panel.description for panel in self.panels)


@dataclass(frozen=True)
class Table:
    """A table; `strong` names cells by row and column, counted from 0."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Page:
    """A page: what it is of, what was found, in words and one figure; the rest is folded below.

    Attributes:
        facts: what it is of, by name.
        findings: a sentence for each thing that was looked at, such as a sparsity.
        note: how to read the findings.
        lead: the figure beside the findings.
        tables: folded, each under its caption.
        rest: further figures, each folded under its title.
        command: what makes the same again, as it would be typed.
        labels: those that have the same colours in all figures. Where a figure has some of them, others are grey.
    """

    title: str
    facts: dict[str, str]
    findings: dict[str, str] = field(default_factory=dict)
    note: str = ""
    lead: Figure | None = None
    tables: tuple[Table, ...] = ()
    rest: tuple[Figure, ...] = ()
    command: str = ""
    labels: tuple[str, ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures, in the order of the page."""
        return (*((self.lead,) if self.lead else ()), *self.rest)


def bounded(page: Page) -> Page:
    """The page with long names shortened and long tables cut, so that it can be drawn and read."""
    return replace(
        page,
        title=shown(page.title),
        facts={shown(name): shown(value) for name, value in page.facts.items()},
        findings={shown(name): shown(text, MOST_LETTERS_OF_TEXT) for name, text in page.findings.items()},
        note=shown(page.note, MOST_LETTERS_OF_TEXT),
        command=shown(page.command, MOST_LETTERS_OF_TEXT),
        lead=_short_figure(page.lead) if page.lead else None,
        tables=tuple(map(_short_table, page.tables)),
        rest=tuple(map(_short_figure, page.rest)),
        labels=tuple(shown(label, TICK_LETTERS) for label in page.labels),
    )


def _short_figure(figure: Figure) -> Figure:
    return replace(figure, panels=tuple(map(_short_panel, figure.panels)))


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
    kept = np.isin(series.y if form in {"dots", "layers"} else series.x, places)
    spread = None if series.spread is None else series.spread[kept]
    return replace(series, x=series.x[kept], y=series.y[kept], spread=spread)


def _course(series: Series, panel: Panel) -> str:
    if panel.form == "dots":
        names = dict(panel.ticks)
        rows = zip(series.x, series.y, strict=True)
        return ", ".join(f"{names.get(float(y), series.label)} {x:.4g}" for x, y in rows)
    if series.y.size == 1:
        return f"{series.label} {series.y[0]:.4g}"
    return f"{series.label} from {series.y[0]:.4g} to {series.y[-1]:.4g}"

"""Figures drawn by matplotlib: SVG panels that take the page's colours, or one PNG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from ntt_cli.pages.figures import Figure, Numbers, Panel, Series
from ntt_cli.pages.labels import LineEnd, name_lines

COLOURS = ("#0072b2", "#b54700", "#00795a", "#a8487f", "#8f6400")
"""Okabe and Ito's blue, vermilion, green, purple and orange, dark enough on white for names of lines to be read.

On the page they are the variables `--line-1` to `--line-5`, which are lighter in the dark.
"""

MARKERS = "os^Dv"
"""One for each colour."""

OTHERS = "#a7adb4"
"""Lines beyond those that have a colour."""

REFERENCES = {"teacher", "dense"}
"""Series that others are compared with, drawn in the colour of the text."""

INK = "#1c1f23"
VARIABLES = {INK: "currentColor", OTHERS: "var(--others)"} | {
    colour: f"var(--line-{number})" for number, colour in enumerate(COLOURS, start=1)
}
"""What stands in the page's drawings for the colours."""

FAINT = 0.18
PANEL_INCHES = (4.6, 3.1)
"""As wide as a phone: on the page, panels stand beside or below each other."""

COLUMNS = 2
HEAD_INCHES, ROW_INCHES = 0.8, 0.22
BESIDE = 0.012
"""Of an axis: how far the next line's markers and spreads are moved, about their width."""

FEW_DECADES = 300
"""A logarithmic axis of a smaller ratio than this names numbers between the powers of ten."""

MOST_DECADES = 6
"""The most powers of ten that an axis names, which may be as long as 0.0001."""

MOST_TICKS = 12
"""The most names along a horizontal axis; of more, every second or third is written."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntt",
    "text.parse_math": False,  # names are text, whatever they look like
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": FAINT,
    "lines.linewidth": 1.8,
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color", "axes.titlecolor"),
    INK,
)

Look = dict[str, tuple[str, str]]
"""Colour and marker by label."""


def draw_svgs(figure: Figure, labels: Sequence[str] = ()) -> list[str]:
    """An `<svg>` element for each panel, without a background, its identifiers unlike those of others."""
    look = _look(figure, labels)
    return [_svg(panel, look, f"{figure.name}-{number}-") for number, panel in enumerate(figure.panels, start=1)]


def draw_png(figure: Figure, labels: Sequence[str] = ()) -> bytes:
    """The whole figure in black on white."""
    columns = min(COLUMNS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = PANEL_INCHES[0], max(map(_height, figure.panels))
    look = _look(figure, labels)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(columns * width, rows * height), layout=_layout())
        axes = list(canvas.subplots(rows, columns, squeeze=False).flat)
        for panel, ax in zip(figure.panels, axes, strict=False):
            _draw_panel(panel, ax, look)
        for unused in axes[len(figure.panels) :]:
            unused.set_axis_off()
        canvas.suptitle(figure.title, fontweight="bold")
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=160, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _svg(panel: Panel, look: Look, prefix: str) -> str:
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(PANEL_INCHES[0], _height(panel)), layout=_layout())
        _draw_panel(panel, canvas.subplots(), look)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    for before in ('id="', "url(#", 'href="#'):
        svg = svg.replace(before, f"{before}{prefix}")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg))


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.05)


def _height(panel: Panel) -> float:
    """In inches."""
    return HEAD_INCHES + ROW_INCHES * len(panel.ticks) if panel.form in {"dots", "layers"} else PANEL_INCHES[1]


def _look(figure: Figure, order: Sequence[str]) -> Look:
    """The first of the order have a colour, or if the figure has none of them, the first of its own."""
    named = [series.label for panel in figure.panels for series in panel.series]
    named += [name for panel in figure.panels if panel.form == "dots" for _, name in panel.ticks]
    found = list(dict.fromkeys(name for name in named if name and name not in REFERENCES))
    chosen = [name for name in order if name not in REFERENCES] if set(order) & set(found) else found
    return dict(zip(chosen, zip(COLOURS, MARKERS, strict=True), strict=False))


def _draw_panel(panel: Panel, ax: Axes, look: Look) -> None:
    if panel.form == "layers":
        _draw_layers(panel, ax)
    elif panel.form == "dots":
        _draw_dots(panel, ax, look)
    else:
        for series in sorted(panel.series, key=lambda series: series.label in look):  # the coloured ones over the grey
            _draw_line(panel, series, ax, look)
    for name, axis, scale in (("x", ax.xaxis, ax.set_xscale), ("y", ax.yaxis, ax.set_yscale)):
        if name in panel.log:
            scale("log", nonpositive="mask")
            # Plain numbers: powers of ten would be set as formulas, which takes a second a figure.
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            low, high = axis.get_view_interval()
            few = high < low * FEW_DECADES
            axis.set_major_locator(LogLocator(numticks=MOST_DECADES))
            axis.set_minor_locator(LogLocator(subs=(2, 5)) if few else NullLocator())
            axis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
    if panel.x_label in {"epoch", "step"}:  # counted in whole numbers
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.ticks:
        _name_places(panel, ax)
    if panel.floor is not None:
        ax.set_ylim(bottom=panel.floor)
    if panel.reversed:
        ax.invert_xaxis()
    ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    named = [series for series in panel.series if series.label in look or series.label in REFERENCES]
    if panel.form in {"line", "marked"} and len(panel.series) > 1:
        ends = [(series, _end(series, log="y" in panel.log)) for series in named]
        name_lines(ax, [LineEnd(series.label, _colour(series.label, look), y) for series, y in ends if y is not None])


def _name_places(panel: Panel, ax: Axes) -> None:
    rows = panel.form in {"dots", "layers"}
    shown = panel.ticks if rows else panel.ticks[:: math.ceil(len(panel.ticks) / MOST_TICKS)]
    axis = ax.yaxis if rows else ax.xaxis
    axis.set_ticks([position for position, _ in shown], [name for _, name in shown])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    if rows:
        ax.set_ylim(len(panel.ticks) - 0.5, -0.5)
    elif max(len(name) for _, name in shown) * len(shown) > 40:  # letters, of which about so many fit side by side
        ax.tick_params(axis="x", rotation=60)


def _colour(label: str, look: Look) -> str:
    return INK if label in REFERENCES else look.get(label, (OTHERS, ""))[0]


def _end(series: Series, *, log: bool) -> float | None:
    drawn = series.y[np.isfinite(series.y) & ((series.y > 0) | (not log))]
    return float(drawn[-1]) if drawn.size else None


def _draw_line(panel: Panel, series: Series, ax: Axes, look: Look) -> None:
    alone = len(panel.series) == 1
    colour = COLOURS[0] if alone and series.label not in REFERENCES else _colour(series.label, look)
    grey = colour == OTHERS
    x, marker = series.x, ""
    if panel.form == "marked" and series.label in look:
        marker = look[series.label][1]
        if series.spread is not None and not alone:
            x = _beside(panel, x, list(look).index(series.label))
    ax.plot(x, series.y, color=colour, linestyle="--" if series.dashed else "-", marker=marker, markersize=4.5)
    if grey:
        ax.lines[-1].set_linewidth(0.9)
    elif series.spread is not None:
        low, high = series.y - series.spread, series.y + series.spread
        if marker:
            ax.vlines(x, low, high, color=colour, linewidth=1.2)
        else:
            ax.fill_between(x, low, high, color=colour, alpha=FAINT, linewidth=0)


def _beside(panel: Panel, x: Numbers, rank: int) -> Numbers:
    """The places moved a little by the line's rank, so that spreads of several lines at one place are all seen."""
    every = np.concatenate([series.x for series in panel.series])
    shift = BESIDE * (rank - len(COLOURS) // 2)
    if "x" in panel.log:
        return np.asarray(x * (every.max() / every.min()) ** shift)
    return np.asarray(x + np.ptp(every) * shift)


def _draw_dots(panel: Panel, ax: Axes, look: Look) -> None:
    names = dict(panel.ticks)
    for series in panel.series:
        colours = [_colour(names.get(float(y), ""), look) for y in series.y]
        if series.spread is not None:
            ax.hlines(series.y, series.x - series.spread, series.x + series.spread, colors=colours, linewidth=2)
        ax.scatter(series.x, series.y, c=colours, s=26, zorder=3)


def _draw_layers(panel: Panel, ax: Axes) -> None:
    """A bar a layer, as long as the square root of its size, filled as far as it is kept."""
    size, kept = panel.series
    lengths = np.sqrt(size.x / size.x.max(initial=1))
    shares = np.divide(kept.x, size.x, out=np.zeros_like(kept.x), where=size.x > 0)
    ax.barh(size.y, lengths, height=0.62, color=OTHERS, alpha=0.45)
    ax.barh(size.y, lengths * shares, height=0.62, color=COLOURS[0])
    for row, length, share, count in zip(size.y, lengths, shares, kept.x, strict=True):
        text = f"{100 * share:.3g}% ({count:,.0f})"
        ax.annotate(text, (length, row), xytext=(4, 0), textcoords="offset points", va="center", annotation_clip=False)
    ax.set_xlim(0, 1)
    ax.xaxis.set_visible(False)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0)

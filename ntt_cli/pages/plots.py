"""Figures drawn by matplotlib, as SVG that takes the page's text colour, or as PNG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from ntt_cli.pages.figures import Figure, Panel, Series

COLOURS = (
    "#e8543f", "#2f8fd8", "#27a17c", "#b06fd0", "#c99700", "#7f8c99",
    "#d65f9b", "#6f9a2e", "#a9754f", "#6674d9", "#1fa5b0", "#b9564f",
    "#d98a3d", "#8f5bd6", "#8c8433", "#4fb3e8",
)  # fmt: skip
"""One for each method of a comparison. Most eyes tell them apart, on white and on black."""

MARKERS = "osD^vPX<>*hdp"
"""Fewer than the colours, so that series of the same colour have different markers."""

REFERENCES = {"teacher", "dense"}
"""Series that others are compared with, drawn in the colour of the text."""

INK = "#818283"
"""Stands for the page's text colour in the drawing; none of the colours above."""

FAINT = 0.18
PANEL_INCHES = (4.6, 3.1)
SINGLE_INCHES = (7.6, 4.2)
COLUMNS = 2
HEAD_INCHES, ROW_INCHES = 1.0, 0.24
FEW_DECADES = 300
"""A logarithmic axis of a smaller ratio than this names numbers between the powers of ten."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntt",
    "text.parse_math": False,  # names are text, whatever they look like
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": FAINT,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color", "axes.titlecolor"),
    INK,
)


def draw_svg(figure: Figure, labels: Sequence[str] = ()) -> str:
    """An `<svg>` element without a background, its identifiers unlike those of other figures."""
    with mpl.rc_context(STYLE):
        buffer = io.StringIO()
        _draw(figure, labels).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    for before in ('id="', "url(#", 'href="#'):
        svg = svg.replace(before, f"{before}{figure.name}-")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg))


def draw_png(figure: Figure, labels: Sequence[str] = ()) -> bytes:
    """The figure in black on white."""
    style = {key: "#1c1f23" if value == INK else value for key, value in STYLE.items()}
    with mpl.rc_context(style):
        buffer = io.BytesIO()
        canvas = _draw(figure, labels)
        canvas.suptitle(figure.title, fontweight="bold")
        canvas.savefig(buffer, format="png", dpi=160, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _draw(figure: Figure, order: Sequence[str]) -> Canvas:
    labels = list(dict.fromkeys(series.label for panel in figure.panels for series in panel.series if series.label))
    coloured = [label for label in dict.fromkeys([*order, *labels]) if label not in REFERENCES]
    look = {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(coloured)}
    columns = min(COLUMNS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = PANEL_INCHES if columns > 1 else SINGLE_INCHES
    if all(panel.form in {"dots", "bars"} for panel in figure.panels):
        height = HEAD_INCHES + ROW_INCHES * max(len(panel.ticks) for panel in figure.panels)
    canvas = Canvas(figsize=(columns * width, rows * height), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    axes = list(canvas.subplots(rows, columns, squeeze=False).flat)
    for panel, ax in zip(figure.panels, axes, strict=False):
        _draw_panel(panel, ax, look)
    for unused in axes[len(figure.panels) :]:
        unused.set_axis_off()
    if len(labels) > 1:
        _legend(canvas, labels)
    return canvas


def _draw_panel(panel: Panel, ax: Axes, look: dict[str, tuple[str, str]]) -> None:
    for series in panel.series:
        colour, marker = look.get(series.label, (mpl.rcParams["text.color"], ""))
        _draw_series(panel, series, ax, colour, marker)
    for name, axis, scale in (("x", ax.xaxis, ax.set_xscale), ("y", ax.yaxis, ax.set_yscale)):
        if name in panel.log:
            scale("log", nonpositive="mask")
            # Plain numbers: powers of ten would be set as formulas, which takes a second a figure.
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            low, high = axis.get_view_interval()
            few = high < low * FEW_DECADES
            axis.set_minor_locator(LogLocator(subs=(2, 5)) if few else NullLocator())
            axis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
    if panel.x_label in {"epoch", "step"}:  # counted in whole numbers
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.ticks:
        axis = ax.yaxis if panel.form in {"dots", "bars"} else ax.xaxis
        axis.set_ticks([position for position, _ in panel.ticks], [name for _, name in panel.ticks])
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    if panel.form in {"dots", "bars"}:
        ax.set_ylim(len(panel.ticks) - 0.5, -0.5)
    if panel.form == "marked" and len(panel.ticks) > 6:
        ax.tick_params(axis="x", rotation=60)
    if panel.floor is not None:
        ax.set_ylim(bottom=panel.floor)
    if panel.reversed:
        ax.invert_xaxis()
    ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)


def _draw_series(panel: Panel, series: Series, ax: Axes, colour: str, marker: str) -> None:
    if panel.form == "bars":
        ax.barh(series.y, series.x, color=COLOURS[0], height=0.7)
        return
    if panel.form == "dots":
        ax.errorbar(series.x, series.y, xerr=series.spread, fmt="o", color=COLOURS[0], capsize=2)
        return
    line, shape = "--" if series.dashed else "-", marker if panel.form == "marked" else ""
    ax.plot(series.x, series.y, color=colour, linestyle=line, marker=shape, markersize=4, label=series.label)
    if series.spread is not None:
        low, high = series.y - series.spread, series.y + series.spread
        ax.fill_between(series.x, low, high, color=colour, alpha=FAINT, linewidth=0)


def _legend(canvas: Canvas, labels: list[str]) -> None:
    handles: dict[str, Any] = {}
    for ax in canvas.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ordered = {label: handles[label] for label in labels if label in handles}
    columns = min(4, len(ordered))
    canvas.legend(list(ordered.values()), list(ordered), loc="outside lower center", ncols=columns)

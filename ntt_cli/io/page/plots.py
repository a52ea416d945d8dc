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
from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

from ntt_cli.io.page.figures import Figure, Panel, Series

COLOURS = (
    "#e8543f", "#2f8fd8", "#27a17c", "#b06fd0", "#c99700", "#7f8c99",
    "#d65f9b", "#6f9a2e", "#a9754f", "#6674d9", "#1fa5b0", "#b9564f",
)  # fmt: skip
"""Told apart by most eyes, and seen on white and on black."""

MARKERS = "osD^vPX<>*hd"
REFERENCES = {"teacher", "dense"}
"""Series that others are held against, in the colour of the text."""

INK = "#818283"
"""Stands for the page's own text colour in the drawing, and is none of the colours above."""

FAINT = 0.18
PANEL_INCHES = (4.6, 3.1)
SINGLE_INCHES = (7.6, 4.2)
COLUMNS = 2
ROW_INCHES = 0.24
LEGEND_COLUMNS = 4
PNG_DPI = 160

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntt",
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
        _draw(figure, labels).savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    for before, after in (
        ('id="', f'id="{figure.name}-'),
        ("url(#", f"url(#{figure.name}-"),
        ('href="#', f'href="#{figure.name}-'),
    ):
        svg = svg.replace(before, after)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg))


def draw_png(figure: Figure, labels: Sequence[str] = ()) -> bytes:
    """The figure in black on white."""
    style = {key: "#1c1f23" if value == INK else value for key, value in STYLE.items()}
    with mpl.rc_context(style):
        buffer = io.BytesIO()
        canvas = _draw(figure, labels)
        canvas.suptitle(figure.title, fontweight="bold")
        canvas.savefig(buffer, format="png", dpi=PNG_DPI, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _draw(figure: Figure, order: Sequence[str]) -> Canvas:
    labels = list(dict.fromkeys(series.label for panel in figure.panels for series in panel.series if series.label))
    coloured = [label for label in dict.fromkeys([*order, *labels]) if label not in REFERENCES]
    look = {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(coloured)}
    columns = min(COLUMNS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = PANEL_INCHES if columns > 1 else SINGLE_INCHES
    height = max(height, *(1.0 + ROW_INCHES * len(p.ticks) for p in figure.panels if p.form in {"dots", "bars"}), 0)
    canvas = Canvas(figsize=(columns * width, rows * height), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False).flat
    for panel, ax in zip(figure.panels, axes, strict=False):
        _draw_panel(panel, ax, look)
    for unused in list(axes)[len(figure.panels) :]:
        unused.set_axis_off()
    named = [panel for panel in figure.panels if panel.form in {"line", "marked"}]
    if named and len(labels) > 1:
        _legend(canvas, labels, named)
    return canvas


def _draw_panel(panel: Panel, ax: Axes, look: dict[str, tuple[str, str]]) -> None:
    for series in panel.series:
        colour, marker = look.get(series.label, (mpl.rcParams["text.color"], ""))
        _draw_series(panel, series, ax, colour, marker)
    if "x" in panel.log:
        ax.set_xscale("log")
    if "y" in panel.log:
        ax.set_yscale("log")
    if panel.ticks:
        axis = ax.yaxis if panel.form in {"dots", "bars"} else ax.xaxis
        axis.set_ticks([position for position, _ in panel.ticks], [name for _, name in panel.ticks])
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    if panel.form in {"dots", "bars"}:
        ax.invert_yaxis()
    if panel.form == "marked" and len(panel.ticks) > 6:
        ax.tick_params(axis="x", rotation=60)
    if panel.form == "marked" and "y" in panel.log:
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
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
    ax.plot(
        series.x,
        series.y,
        color=colour,
        linestyle="--" if series.dashed else "-",
        marker=marker if panel.form == "marked" else "",
        markersize=4,
        label=series.label,
    )
    if series.spread is not None:
        ax.fill_between(
            series.x, series.y - series.spread, series.y + series.spread, color=colour, alpha=FAINT, linewidth=0
        )


def _legend(canvas: Canvas, labels: list[str], panels: list[Panel]) -> None:
    handles: dict[str, Any] = {}
    for ax in canvas.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ordered = [label for label in labels if label in handles]
    canvas.legend(
        [handles[label] for label in ordered],
        ordered,
        loc="outside lower center",
        ncols=min(LEGEND_COLUMNS, len(ordered)),
    )

"""Panels of lines, each named at its end in its own colour, as an SVG picture for a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ntt_cli.pages.labels import BETWEEN_NAMES, apart

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntt",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
PANEL_INCHES = (4.4, 2.7)


class Line(NamedTuple):
    """Its name, its colour, its points, and their deviations."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float]


class Panel(NamedTuple):
    title: str
    lines: list[Line]
    lowest: float
    """Where the vertical axis begins."""
    scale: str = "log"
    """Of the horizontal axis."""


def draw(panels: Sequence[Panel], path: Path, *, columns: int, x_label: str, y_label: str, highest: float) -> None:
    """Write the picture; axes start at each panel's lowest value and end at `highest`."""
    rows = len(panels) // columns
    with mpl.rc_context(STYLE):
        width, height = PANEL_INCHES
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for i, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
            draw_panel(panel, ax, highest)
            ax.set_ylabel(y_label if i % columns == 0 else "")
            ax.set_xlabel(x_label if i >= len(panels) - columns else "")
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def draw_panel(panel: Panel, ax: Axes, highest: float) -> None:
    ax.set_title(panel.title)
    ax.set_xscale(panel.scale)
    ax.set_ylim(panel.lowest, highest)
    for line in panel.lines:
        y, spread = np.array(line.y), np.array(line.spread)
        ax.plot(line.x, y, color=line.colour, marker="o", markersize=3, linewidth=1.6)
        ax.fill_between(line.x, y - spread, y + spread, color=line.colour, alpha=0.12, linewidth=0)
    points = panel.lines[0].x
    ax.set_xticks(points, [f"{point:g}" for point in points])
    ax.xaxis.set_minor_locator(NullLocator())
    gap = BETWEEN_NAMES * (highest - panel.lowest)
    heights = apart([line.y[-1] for line in panel.lines], gap)
    for line, height in zip(panel.lines, heights, strict=True):
        ax.annotate(
            line.name,
            (points[-1], height),
            xytext=(7, 0),
            textcoords="offset points",
            color=line.colour,
            va="center",
            annotation_clip=False,
        )

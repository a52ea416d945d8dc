"""Panels of lines, each named at its end in its own colour, as an SVG picture for a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

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
BETWEEN_NAMES = 0.075
"""Of a panel's height: the least distance of two lines of text."""


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


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights nearest to these, by least squares, that are `gap` apart and in the same order.

    Less the gaps below them, they must not fall: pool adjacent violators (Barlow et al. 1972).
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    pools: list[list[float]] = []
    for rank, i in enumerate(order):
        pools.append([heights[i] - rank * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    moved = {i: level + rank * gap for rank, (i, level) in enumerate(zip(order, levels, strict=True))}
    return [moved[i] for i in range(len(heights))]


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

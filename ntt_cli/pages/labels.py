"""Names at the ends of lines, in the place of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes

BETWEEN_NAMES = 0.075
"""Of an axis's height: the least distance of two lines of text, in panels of about three inches."""


@dataclass(frozen=True)
class LineEnd:
    """A line's name and colour, and the value that it ends at."""

    name: str
    colour: str
    y: float


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


def name_lines(ax: Axes, ends: Sequence[LineEnd]) -> None:
    """Write each name in its line's colour at the right of the axes, whose limits must be final.

    A line that has left the frame has its name at the edge, with an arrow.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    x = ax.get_xlim()[1]
    heights = [float(to_axes.transform((x, end.y))[1]) for end in ends]
    places = apart([min(max(height, 0.0), 1.0) for height in heights], BETWEEN_NAMES)
    above = sorted(range(len(ends)), key=places.__getitem__)
    for rank, i in enumerate(above):  # none below the frame, where the axis has its title
        places[i] = max(places[i], rank * BETWEEN_NAMES)
    for end, height, place in zip(ends, heights, places, strict=True):
        ax.annotate(
            f"{end.name}{' ↓' if height < 0 else ' ↑' if height > 1 else ''}",
            (1, place),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=end.colour,
            va="center",
            annotation_clip=False,
        )

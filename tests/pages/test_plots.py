from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ntt_cli.config import method_names
from ntt_cli.pages.figures import Figure, Panel, Series
from ntt_cli.pages.plots import COLOURS, INK, MARKERS, draw_png, draw_svg

X = np.array([1.0, 2.0, 4.0])
LINES = (
    Series("ntt", X, np.array([1.0, 10.0, 100.0]), np.array([0.1, 0.1, 0.1])),
    Series("random & co", X, np.array([2.0, 3.0, 4.0]), dashed=True),
    Series("teacher", X, np.array([5.0, 5.0, 5.0])),
)


def figure(*panels: Panel, name: str = "some") -> Figure:
    return Figure(name, "Some figure", "How to read it.", panels)


LINE = figure(Panel("A panel", "epoch", "accuracy, %", LINES))
BARS = figure(
    Panel("Bars", "%", "", (Series("", X, np.arange(3.0)),), form="bars", ticks=((0.0, "a"), (1.0, "b"), (2.0, "c")))
)
DOTS = replace(BARS, panels=(replace(BARS.panels[0], form="dots"),))
EVERY = [
    LINE,
    BARS,
    DOTS,
    figure(replace(LINE.panels[0], log="xy", form="marked", reversed=True, floor=0.5)),
    figure(*[LINE.panels[0]] * 3),
]


def words(svg: str) -> list[str]:
    return [text for element in ET.fromstring(svg).iter() if (text := (element.text or "").strip())]


def coordinates(svg: str, colour: str) -> list[tuple[float, float]]:
    """Of the one unfilled path of this colour that is not in the legend."""
    style = rf'style="fill: none; (?:stroke-dash[^;]+; )*stroke: {colour}'
    (line,) = re.findall(rf'<path d="([^"]+)" clip-path="[^"]+" {style}', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line)]


@pytest.mark.parametrize("shown", EVERY, ids=["line", "bars", "dots", "log", "three"])
def test_pictures_can_be_read(shown: Figure) -> None:
    root = ET.fromstring(draw_svg(shown))
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    with Image.open(io.BytesIO(draw_png(shown))) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(10**7) or []) > 10


def test_every_word_is_text() -> None:
    found = words(draw_svg(LINE))
    for word in ("A panel", "epoch", "accuracy, %", "ntt", "random & co", "teacher"):
        assert word in found


def test_lines_go_where_their_numbers_are() -> None:
    points = coordinates(draw_svg(LINE), COLOURS[1])
    across = [x for x, _ in points]
    up = [-y for _, y in points]
    assert (across[2] - across[1]) / (across[1] - across[0]) == pytest.approx(2, rel=1e-3)
    assert (up[2] - up[1]) / (up[1] - up[0]) == pytest.approx(1, rel=1e-3)
    logarithmic = figure(replace(LINE.panels[0], log="xy"))
    points = coordinates(draw_svg(logarithmic), COLOURS[0])
    assert (points[2][0] - points[1][0]) / (points[1][0] - points[0][0]) == pytest.approx(1, rel=1e-3)
    assert (points[2][1] - points[1][1]) / (points[1][1] - points[0][1]) == pytest.approx(1, rel=1e-3)


def test_text_and_references_have_the_colour_of_the_page() -> None:
    svg = draw_svg(LINE)
    assert INK not in svg
    assert COLOURS[1] in svg
    assert COLOURS[2] not in svg  # the teacher's line, the third, has the colour of the text
    assert b"currentColor" not in draw_png(LINE)


def test_a_label_keeps_its_colour_from_figure_to_figure() -> None:
    alone = figure(Panel("A panel", "epoch", "%", LINES[1:2]))
    assert COLOURS[0] in draw_svg(alone)
    svg = draw_svg(alone, ["ntt", "teacher", "random & co"])
    assert COLOURS[0] not in svg
    assert coordinates(svg, COLOURS[1])


def test_no_two_of_a_comparisons_methods_look_alike() -> None:
    methods = [*method_names(), "trained-magnitude"][: len(COLOURS)]
    lines = tuple(Series(method, X, X + i) for i, method in enumerate(methods))
    svg = draw_svg(figure(Panel("A panel", "sparsity", "%", lines, form="marked")))
    assert [len(coordinates(svg, colour)) for colour in COLOURS] == [len(X)] * len(COLOURS)
    assert math.gcd(len(COLOURS), len(MARKERS)) == 1  # further series differ in one of the two


def test_identifiers_of_two_figures_do_not_meet() -> None:
    one, other = (set(re.findall(r' id="([^"]+)"', draw_svg(replace(LINE, name=name)))) for name in ("one", "other"))
    assert len(one) == len(other) > 10
    assert not one & other
    svg = draw_svg(replace(LINE, name="one"))
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    assert used
    assert used <= one


def test_the_same_figure_is_the_same_picture() -> None:
    assert draw_svg(LINE) == draw_svg(LINE)
    assert draw_png(LINE) == draw_png(LINE)


def test_zero_leaves_a_logarithmic_axis_alone() -> None:
    zero = Series("ntt", X, np.array([0.0, 10.0, 100.0]))
    svg = draw_svg(figure(Panel("A panel", "step", "", (zero,), log="y")))
    assert len(coordinates(svg, COLOURS[0])) == 2

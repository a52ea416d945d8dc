from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from ntt_cli.pages.figures import Figure, Panel, Series
from ntt_cli.pages.plots import COLOURS, INK, MARKERS, OTHERS, draw_png, draw_svgs

X = np.array([1.0, 2.0, 4.0])
LINES = (
    Series("ntt", X, np.array([1.0, 10.0, 100.0]), np.array([0.1, 0.1, 0.1])),
    Series("random & co", X, np.array([2.0, 3.0, 4.0]), dashed=True),
    Series("teacher", X, np.array([5.0, 5.0, 5.0])),
)


def figure(*panels: Panel, name: str = "some") -> Figure:
    return Figure(name, "Some figure", "How to read it.", panels)


LINE = figure(Panel("A panel", "epoch", "accuracy, %", LINES))
NAMES = ((0.0, "a"), (1.0, "b"), (2.0, "c"))
DOTS = figure(Panel("Dots", "%", "", (Series("", X, np.arange(3.0)),), form="dots", ticks=NAMES))
SIZES = Series("weights", np.array([400.0, 100.0, 25.0]), np.arange(3.0))
KEPT = Series("kept", np.array([40.0, 50.0, 25.0]), np.arange(3.0))
LAYERS = figure(Panel("Layers", "", "", (SIZES, KEPT), form="layers", ticks=NAMES))
EVERY = [
    LINE,
    LAYERS,
    DOTS,
    figure(replace(LINE.panels[0], log="xy", form="marked", reversed=True, floor=0.5)),
    figure(*[LINE.panels[0]] * 3),
]


def draw_svg(figure: Figure, labels: tuple[str, ...] = ()) -> str:
    """The first panel."""
    return draw_svgs(figure, labels)[0]


def line(number: int) -> str:
    """The page's name for one of the colours, counted from 0."""
    return f"var(--line-{number + 1})"


def words(svg: str) -> list[str]:
    return [text for element in ET.fromstring(svg).iter() if (text := (element.text or "").strip())]


def coordinates(svg: str, colour: str) -> list[tuple[float, float]]:
    """Of the one unfilled path of this colour."""
    style = rf'style="fill: none; (?:stroke-dash[^;]+; )*stroke: {re.escape(colour)}'
    (path,) = re.findall(rf'<path d="([^"]+)" clip-path="[^"]+" {style}', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]


@pytest.mark.parametrize("shown", EVERY, ids=["line", "layers", "dots", "log", "three"])
def test_pictures_can_be_read(shown: Figure) -> None:
    drawn = draw_svgs(shown)
    assert len(drawn) == len(shown.panels)
    for root in map(ET.fromstring, drawn):
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
    points = coordinates(draw_svg(LINE), line(1))
    across = [x for x, _ in points]
    up = [-y for _, y in points]
    assert (across[2] - across[1]) / (across[1] - across[0]) == pytest.approx(2, rel=1e-3)
    assert (up[2] - up[1]) / (up[1] - up[0]) == pytest.approx(1, rel=1e-3)
    logarithmic = figure(replace(LINE.panels[0], log="xy"))
    points = coordinates(draw_svg(logarithmic), line(0))
    assert (points[2][0] - points[1][0]) / (points[1][0] - points[0][0]) == pytest.approx(1, rel=1e-3)
    assert (points[2][1] - points[1][1]) / (points[1][1] - points[0][1]) == pytest.approx(1, rel=1e-3)


def test_text_and_references_have_the_colour_of_the_page() -> None:
    svg = draw_svg(LINE)
    assert not {INK, OTHERS, *COLOURS} & set(re.findall(r"#[0-9a-f]{6}", svg))
    assert line(1) in svg
    assert line(2) not in svg  # the teacher's line, the third, has the colour of the text
    assert b"currentColor" not in draw_png(LINE)


def test_a_label_keeps_its_colour_from_figure_to_figure() -> None:
    two = figure(Panel("A panel", "epoch", "%", LINES[1:]))
    assert line(0) in draw_svg(two)
    svg = draw_svg(two, ("ntt", "teacher", "random & co"))
    assert line(0) not in svg
    assert coordinates(svg, line(1))


def test_lines_beyond_the_colours_are_grey_and_have_no_name() -> None:
    lines = tuple(Series(f"method {i}", X, X + i) for i in range(len(COLOURS) + 2))
    svg = draw_svg(figure(Panel("A panel", "sparsity", "%", lines, form="marked")))
    assert [len(coordinates(svg, line(i))) for i in range(len(COLOURS))] == [len(X)] * len(COLOURS)
    assert len(set(MARKERS)) == len(COLOURS)
    assert "method 4" in words(svg)
    assert "method 5" not in words(svg)
    assert svg.count("stroke: var(--others)") == 2
    assert svg.rindex("stroke: var(--others)") < svg.index(f"stroke: {line(0)}")  # below the others
    few = draw_svg(figure(Panel("A panel", "sparsity", "%", lines)), ("method 6", "method 0"))
    assert {"method 0", "method 6"} == {word for word in words(few) if "method" in word}


def test_names_of_lines_have_their_colours() -> None:
    texts = {element.text: element.get("style") for element in ET.fromstring(draw_svg(LINE)).iter() if element.text}
    assert line(0) in str(texts["ntt"])
    assert line(1) in str(texts["random & co"])
    assert "currentColor" in str(texts["teacher"])


def luminance(colour: str) -> float:
    """Relative, as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_names_can_be_read_on_either_card() -> None:
    """Text has a contrast of 4.5 (WCAG 2.2, 1.4.3)."""
    style = files("ntt_cli").joinpath("resources/page.html").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        lines = [colours[f"line-{number}"] for number in range(1, len(COLOURS) + 1)]
        for colour in [*lines, colours["ink"], colours["dim"]]:
            bright, dim = sorted((luminance(colour), luminance(colours["card"])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, colour
        assert theme is dark or tuple(lines) == COLOURS


def test_layers_are_as_long_as_their_roots_and_filled_as_far_as_they_are_kept() -> None:
    svg = draw_svg(LAYERS)
    assert {"a", "10% (40)", "b", "50% (50)", "c", "100% (25)"} <= set(words(svg))
    wide = {}
    for colour in ("var(--others)", line(0)):
        paths = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: {re.escape(colour)}', svg)
        ends = [[float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)] for path in paths]
        wide[colour] = np.array([max(xs) - min(xs) for xs in ends])
    sizes, kept = wide.values()
    assert sizes / sizes[0] == pytest.approx([1, 1 / 2, 1 / 4], rel=1e-3)
    assert kept / sizes == pytest.approx([0.1, 0.5, 1.0], rel=1e-3)


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
    assert len(coordinates(svg, line(0))) == 2

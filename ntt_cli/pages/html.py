"""A page as one HTML file that needs no network."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ntt_cli import __version__
from ntt_cli.pages.figures import Page
from ntt_cli.pages.plots import draw_svg

MARK = '<meta name="generator" content="ntt '
"""Marks a page that ntt wrote."""


def page_html(page: Page) -> str:
    """The page, its plots inside as SVG."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files("ntt_cli").joinpath("resources/page.html").read_text(encoding="utf-8"))
    drawn = {figure.name: Markup(draw_svg(figure, page.labels)) for figure in page.figures}  # noqa: S704, our own drawing
    return template.render(page=page, drawn=drawn, version=__version__) + "\n"


def is_page(content: bytes) -> bool:
    """Whether ntt wrote it."""
    return MARK.encode() in content[:500]

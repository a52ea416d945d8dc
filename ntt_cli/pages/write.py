"""Pages as HTML files that need no network, and pictures of their figures. Needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ntt_cli import __version__
from ntt_cli.files.atomic import check_writable, write_atomically
from ntt_cli.pages.figures import Page, bounded
from ntt_cli.pages.plots import draw_png, draw_svgs
from ntt_cli.results import PageReport

MARK = '<meta name="generator" content="ntt '
"""Marks a page that ntt wrote."""


def write_page(whole: Page, output: Path, *, png: bool = False, force: bool = False) -> PageReport:
    """Write the page, and with `png` a picture of each figure beside it."""
    page = bounded(whole)
    check_writable(output, force=force or _ours(output))
    content = _html(page).encode()
    pictures = {output.with_name(f"{output.stem}-{figure.name}.png"): figure for figure in page.figures if png}
    for picture in pictures:
        check_writable(picture, force=True)  # its name says whose it is
    write_atomically(output, content)
    for picture, figure in pictures.items():
        write_atomically(picture, draw_png(figure, page.labels))
    return PageReport(
        output=str(output),
        bytes=len(content),
        figures=[figure.name for figure in page.figures],
        pictures=[str(picture) for picture in pictures],
    )


def _html(page: Page) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files("ntt_cli").joinpath("resources/page.html").read_text(encoding="utf-8"))
    drawn = {figure.name: [Markup(svg) for svg in draw_svgs(figure, page.labels)] for figure in page.figures}  # noqa: S704, our own drawing
    return template.render(page=page, drawn=drawn, version=__version__) + "\n"


def _ours(output: Path) -> bool:
    """A page of ntt's own is written anew without a question."""
    try:
        return output.is_file() and MARK.encode() in output.read_bytes()[:500]
    except OSError:
        return False

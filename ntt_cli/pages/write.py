"""Pages, and pictures of their figures, as files. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.files.atomic import check_writable, write_atomically
from ntt_cli.pages.figures import Page, bounded
from ntt_cli.pages.html import is_page, page_html
from ntt_cli.pages.plots import draw_png
from ntt_cli.results import PageReport


def write_page(whole: Page, output: Path, *, png: bool = False, force: bool = False) -> PageReport:
    """Write the page, and with `png` a picture of each figure beside it.

    Raises:
        OutputError: if the output exists and is no page of ntt's, or cannot be written.
    """
    page = bounded(whole)
    check_writable(output, force=force or _ours(output))
    content = page_html(page).encode()
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


def _ours(output: Path) -> bool:
    """A page of ntt's own is written anew without a question."""
    try:
        return output.is_file() and is_page(output.read_bytes())
    except OSError:
        return False

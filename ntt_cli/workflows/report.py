"""`ntt report`: a run or a comparison as a page to look at. Needs neither torch nor the model's code."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.io.files import check_writable, write_atomically
from ntt_cli.io.page.figures import Page, bounded
from ntt_cli.io.page.html import is_page, page_html
from ntt_cli.io.page.plots import draw_png
from ntt_cli.io.report_reader import read_report
from ntt_cli.workflows.pages.comparison import comparison_page
from ntt_cli.workflows.pages.run import run_page
from ntt_cli.workflows.reports import PageReport


def run(path: Path, *, output: Path | None, png: bool, force: bool) -> PageReport:
    """Write the page, and with `png` a picture of each figure beside it.

    Raises:
        OutputError: if there is no comparison in the folder, or the output exists and is no page of ntt's.
        CheckpointError: if the file is no report and has none beside it.
    """
    whole, default = _page(path)
    page = bounded(whole)
    output = output or default
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


def _page(path: Path) -> tuple[Page, Path]:
    if path.is_dir():
        return comparison_page(path), path / "report.html"
    report = read_report(path)
    return run_page(report), report.path.with_suffix(".html")


def _ours(output: Path) -> bool:
    """A page of ntt's own is written anew without a question."""
    try:
        return output.is_file() and is_page(output.read_bytes())
    except OSError:
        return False

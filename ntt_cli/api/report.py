"""`ntt report`: a run or a comparison as a page to look at. Needs neither torch nor the model's code."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.comparison.page import comparison_page
from ntt_cli.files.report_reader import read_report
from ntt_cli.report.figures import Page
from ntt_cli.report.run import run_page
from ntt_cli.report.write import write_page
from ntt_cli.results import PageReport


def run(path: Path, *, output: Path | None, png: bool, force: bool) -> PageReport:
    """Write the page, and with `png` a picture of each figure beside it.

    Raises:
        OutputError: if there is no comparison in the folder, or the output exists and is no page of ntt's.
        CheckpointError: if the file is no report and has none beside it.
    """
    page, default = _page(path)
    return write_page(page, output or default, png=png, force=force)


def _page(path: Path) -> tuple[Page, Path]:
    if path.is_dir():
        return comparison_page(path), path / "report.html"
    report = read_report(path)
    return run_page(report), report.path.with_suffix(".html")

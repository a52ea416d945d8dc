"""`ntt_cli.report`: a run or a comparison as a page to look at. Needs neither torch nor the model's code."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ntt_cli.api.words import told_in_python
from ntt_cli.comparison.page import comparison_page
from ntt_cli.files.report_reader import read_report
from ntt_cli.pages.run import run_page
from ntt_cli.pages.write import write_page
from ntt_cli.results import PageReport


@told_in_python()
def report(
    path: str | PathLike[str], *, output: str | PathLike[str] | None = None, png: bool = False, force: bool = False
) -> PageReport:
    """Write a run or a comparison as one HTML page with plots.

    Args:
        path: a comparison's folder, a report, or the checkpoint beside it.
        output: the page; by default `report.html` in the folder, or beside the report.
        png: write a picture of each figure beside the page.
        force: overwrite a file that is no such page.

    Returns:
        what was written: `.output` is the page, `.figures` are the names of its plots.

    Raises:
        OutputError: if there is no comparison in the folder, or the output exists and is no page of ntt's.
        CheckpointError: if the file is no report and has none beside it.

    Example:
        >>> import tempfile, torch, ntt_cli as ntt
        >>> path = tempfile.mkdtemp() + "/sparse.safetensors"
        >>> saved = ntt.prune(torch.nn.Linear(4, 8), sparsity=0.75, method="magnitude", output=path)
        >>> ntt.report(path).figures
        ['layers']
    """
    if Path(path).is_dir():
        page, default = comparison_page(Path(path)), Path(path) / "report.html"
    else:
        found = read_report(Path(path))
        page, default = run_page(found), found.path.with_suffix(".html")
    return write_page(page, Path(output) if output is not None else default, png=png, force=force)

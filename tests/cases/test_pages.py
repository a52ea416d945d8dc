"""Names and lists of any kind in a report, on its page and in the terminal (`cases/svg-mathtext`)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ntt_cli.api import report
from ntt_cli.cli.render import layer_table
from ntt_cli.files.hashed import tensor_hashes, write_hashed
from ntt_cli.files.metadata import ReportRecord, read_header
from ntt_cli.pages.bounds import MOST_ROWS, shown
from ntt_cli.pages.figures import TICK_LETTERS
from ntt_cli.results import LayerSummary
from tests.cli.conftest import Ntt

SCRIPT = "<script>document.title='PWNED'</script>"
NAMES = {
    "formula": "$\\frac$",
    "dollars": "a$b$c",
    "roots": "$" + "\\sqrt{" * 3000 + "x" + "}" * 3000 + "$",
    "powers": "$" + "x^{2}_{3}" * 20000 + "$",
    "lines": "x\n" * 5000,
    "controls": "a\x00b\x1b[31mred\x07\u202e\x9b31m",
    "script": f"-->{SCRIPT}",
    "signs": "\u5c42.weight",
}


@pytest.fixture(autouse=True)
def _sparse(ntt: Ntt, folder: Path) -> None:
    options = ("--sparsity", "0.5", "--method", "random", "-d", "noise:4", "-q")
    assert ntt("prune", "digits_mlp.py", *options).code == 0


def page_of(names: list[str], *, png: bool = True) -> str:
    path = Path("sparse.report.safetensors")
    record, tensors = read_header(path).record, load_file(path)
    assert isinstance(record, ReportRecord)
    layer = record.summary["layers"][0]
    summary = record.summary | {"layers": [layer | {"name": name} for name in names]}
    changed = record.model_copy(update={"summary": summary, "tensors": tensor_hashes(tensors), "file_sha256": "0" * 64})
    write_hashed(path, tensors, changed)
    report.report(path, output=None, png=png, force=True)
    return path.with_suffix(".html").read_text()


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_text(name: str) -> None:
    page = page_of([name, "plain"])
    assert SCRIPT not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    drawn = ET.fromstring(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)[0])
    words = {element.text for element in drawn.iter() if element.text}
    assert {shown(name.removesuffix(".weight"), TICK_LETTERS), "plain"} <= words
    assert len(page) < 200_000


def test_rows_are_bounded() -> None:
    names = [f"l{i}" for i in range(20_000)]
    page = page_of(names, png=False)
    assert page.count("… and 19,800 more") >= 2  # below the table and over the plot
    assert "<td>l199</td>" in page
    assert "l200<" not in page
    assert len(page) < 400_000
    layers = [LayerSummary(name=name, shape=(1,), kept=1, size=2, density=0.5) for name in names]
    table = layer_table(layers)
    assert table.row_count == MOST_ROWS + 1
    assert list(table.columns[0].cells)[-1] == "… and 19,800 more; --json lists all"

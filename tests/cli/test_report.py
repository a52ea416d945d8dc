from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from ntt_cli.api.report import report
from ntt_cli.cli.app import main
from ntt_cli.pages.figures import Figure, Page, Panel, Series, Table
from ntt_cli.pages.write import write_page
from tests.cli.conftest import MODEL, SAMPLES, Ntt, content
from tests.processes import FORKS

pytestmark = pytest.mark.usefixtures("checkpoints")
FIGURES = ["layers", "transfer", "masks", "spectra", "prediction"]


def test_a_run(ntt: Ntt) -> None:
    result = ntt("report", "sparse.safetensors")
    assert (result.code, result.err) == (0, "")
    size = Path("sparse.report.html").stat().st_size
    figures = ", ".join(FIGURES)
    assert result.out == f"sparse.report.html: {size:,} bytes, with figures of {figures}\n"


def test_the_same_report_is_the_same_page_wherever_it_is(ntt: Ntt) -> None:
    assert ntt("report", "tuned.safetensors", "-q").out == "tuned.report.html\n"
    assert ntt("report", "tuned.report.safetensors", "-o", "other.html", "-q").out == "other.html\n"
    assert Path("other.html").read_bytes() == Path("tuned.report.html").read_bytes()


def test_pictures(ntt: Ntt) -> None:
    assert ntt("report", "tuned.safetensors", "--png", "--json").report == {
        "output": "tuned.report.html",
        "bytes": Path("tuned.report.html").stat().st_size,
        "figures": ["training"],
        "pictures": ["tuned.report-training.png"],
    }
    assert Path("tuned.report-training.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_is_written_anew_and_nothing_else_is(ntt: Ntt) -> None:
    for _ in range(2):
        assert ntt("report", "tuned.safetensors", "-o", "page.html").code == 0
    Path("page.html").write_text("<!doctype html><p>mine</p>")
    result = ntt("report", "tuned.safetensors", "-o", "page.html")
    assert result.code == 2
    assert "error: page.html: exists already" in result.err
    assert Path("page.html").read_text().endswith("mine</p>")
    assert ntt("report", "tuned.safetensors", "-o", "page.html", "--force").code == 0


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nothing.safetensors", "nothing.safetensors: does not exist"),
        (".", ".: holds no comparison"),
        (MODEL, "is a Python file, not a safetensors file"),
        ("alone.safetensors", "alone.safetensors: has no report beside it (alone.report.safetensors)"),
        ("cut.report.safetensors", "cut.report.safetensors: is not a whole safetensors file"),
    ],
)
def test_what_is_no_report(ntt: Ntt, path: str, words: str) -> None:
    shutil.copy("sparse.safetensors", "alone.safetensors")
    whole = Path("sparse.report.safetensors").read_bytes()
    Path("cut.report.safetensors").write_bytes(whole[:-1])
    before = content()
    result = ntt("report", path)
    assert result.code == 2
    assert words in result.err
    assert "hint: " in result.err
    assert content() == before


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium; where CI asks for it, its absence is a failure."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        message = "there is no Chromium: apt-get install chromium"
        if os.environ.get("NTT_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)  # never in CI, which sets the variable
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    shutil.copy(SAMPLES / MODEL, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(multiprocessing, "get_context", lambda _: FORKS)
        arguments = ["--methods", "ntt,random,dense", "--sparsities", "0.8,0.9", "--seeds", "1,2", "--epochs", "2"]
        with pytest.raises(SystemExit) as exit:
            main(["compare", MODEL, *arguments, "--limit", "100", "--steps", "20", "-q"])
        assert exit.value.code == 0
    return folder / "comparison" / "report.html"


@pytest.fixture(scope="module")
def pages(comparison: Path, _made: Path) -> list[Path]:
    """A comparison, a run, a fine-tuning, and a page with sixty layers and long names."""
    names = [f"encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight" for i in range(60)]
    places = np.arange(60.0)
    series = Series("weights", 1000 + 90_000 * places, places), Series("kept", 500 + 0 * places, places)
    panel = Panel("Where", "", "", series, form="layers", ticks=tuple(enumerate(names)))
    table = Table(("layer", *"abcdef"), tuple((name, *["1,234,567"] * 6) for name in names), "A wide table")
    lines = tuple(Series(name, places + 1, places + i) for i, name in enumerate(names[:7]))
    curves = Figure("curves", "Curves", "", (Panel("Curves", "step", "", lines),) * 3)
    command = "ntt prune " + "a_long_name_without_any_space_in_it_" * 3 + ".py --data " + "x" * 60
    long = Page(
        "/a/long/path/" * 9, {"model": names[0] * 2}, {"Kept": "all. " * 50}, "", Figure("layers", "", "", (panel,))
    )
    folder = comparison.parent
    made = [write_page(replace(long, tables=(table,), rest=(curves,), command=command), folder / "long.html").output]
    for name in ("sparse", "tuned"):
        made.append(report(_made / f"{name}.safetensors", output=folder / f"{name}.html").output)
    return [comparison, *map(Path, made)]


def test_a_comparison_in_a_browser(comparison: Path, browser: Browser) -> None:
    assert comparison.stat().st_size < 3_000_000
    inks = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))  # noqa: B023
        page.on("pageerror", lambda error: complaints.append(str(error)))  # noqa: B023
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))  # noqa: B023
        page.goto(comparison.resolve().as_uri())
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [comparison.resolve().as_uri()]
        assert page.locator("details[open]").count() == 0
        page.evaluate(OPEN)
        assert page.locator("figure").count() == 8
        plots = page.locator("figure [role=img]").all()
        assert len(plots) == 16  # panels
        for plot in plots:
            assert len(plot.get_attribute("aria-label") or "") > 20
            box = plot.locator("svg").bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > 100
            lines = plot.locator("svg path").evaluate_all(
                "paths => paths.filter(path => path.getBoundingClientRect().width > 20).length"
            )
            assert lines > 3
        ids = page.locator("[id]").evaluate_all("elements => elements.map(element => element.id)")
        assert len(ids) == len(set(ids))
        colour = "element => getComputedStyle(element).fill"
        inks[scheme] = page.locator("figure svg text").first.evaluate(colour)
        page.close()
    assert inks["light"] != inks["dark"]


OPEN = "document.querySelectorAll('details').forEach(part => part.open = true)"
CUT = """() => [...document.querySelectorAll('body *')].filter(element => {
    const scrolls = element.closest('.scroll');
    const box = (scrolls && element !== scrolls ? scrolls : element).getBoundingClientRect();
    return !element.closest('svg *') && (box.right > innerWidth || box.left < 0);
}).map(element => element.outerHTML.slice(0, 99))"""
"""Elements that leave the window; those within a box that scrolls are that box's."""


def test_nothing_is_cut_on_a_phone(pages: list[Path], browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    for path in pages:
        page.goto(path.resolve().as_uri())
        page.evaluate(OPEN)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(CUT) == []
        sizes = page.locator("figure svg text").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 8  # pixels of a line of text, upright or turned
    page.close()


def test_a_printed_page_is_dark_on_white_and_open(pages: list[Path], browser: Browser) -> None:
    page = browser.new_page(color_scheme="dark")
    for path in pages:
        page.goto(path.resolve().as_uri())
        folded = page.locator("details > :not(summary)").all()
        assert folded
        assert not any(part.evaluate("part => part.checkVisibility({contentVisibilityAuto: true})") for part in folded)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        page.emulate_media(media="print", color_scheme="dark")
        assert all((part.bounding_box() or {"height": 0})["height"] > 10 for part in folded)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 31, 35)"
        page.emulate_media(media="screen", color_scheme="dark")
    page.close()

"""Write `docs/report.png`: the top of the report of a comparison, as the machine's own Chromium shows it.

`python docs/make_report.py results/lenet_300_100` does it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

import ntt_cli as ntt

SIZE = {"width": 1100, "height": 1500}


def main() -> None:
    page = ntt.report(sys.argv[1]).output
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE)
        tab.goto(Path(page).resolve().as_uri())
        tab.screenshot(path=Path(__file__).parent / "report.png")
        browser.close()


if __name__ == "__main__":
    main()

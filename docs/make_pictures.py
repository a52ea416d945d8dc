"""Write `docs/pictures`: the pages of a comparison and of a run, as the machine's own Chromium shows them.

The comparison is that of LeNet-300-100 in `benchmarks/results`; the run prunes a perceptron of seven layers on the
digits that ship with ntt. `make pictures` does it; it needs Chromium.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import ntt_cli as ntt

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks/results/lenet_300_100.jsonl"
SETTINGS = {
    "model": "sample_models/lenet_300_100.py",
    "model file": None,
    "data": "fashion-mnist",
    "limit": 12_000,
    "weights": None,
    "epochs": 10,
    "optimiser": "adamw",
    "learning_rates": [1e-3, 3e-3, 1e-2, 3e-2],
    "first seed": 1,
}
"""What `ntt compare` notes in the folder, as `benchmarks/grid.py` ran it."""

VIEWS = {"desktop": (1100, 860, "light"), "dark": (1100, 860, "dark"), "phone": (390, 1100, "light")}
"""Width, height and colour scheme."""

COLOURS = 256
"""Of each picture, so that it is less than half as large."""


def comparison(folder: Path) -> Path:
    """The page of the kept results, in a folder like that of `ntt compare`."""
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(SETTINGS))
    for line in RESULTS.read_text().splitlines():
        result = json.loads(line)
        level = "" if result["sparsity"] is None else f"-{result['sparsity']}"
        trial = folder / "trials" / f"{result['method']}{level}-seed{result['seed']}"
        trial.mkdir(parents=True)
        (trial / "result.json").write_text(line)
    return Path(ntt.report(folder).output)


def run(folder: Path) -> Path:
    """The page of a run."""
    shutil.copy(HERE.parent / "sample_models/digits_mlp.py", folder)
    hidden = f"hidden={[200, 150, 100, 80, 60, 50]}"
    with contextlib.chdir(folder):
        ntt.prune("digits_mlp.py", model_arg=(hidden,), sparsity=0.9, steps=50, seed=1, output="sparse.safetensors")
        return Path(ntt.report("sparse.safetensors").output).resolve()


def photograph(browser: Browser, page: Path, name: str) -> None:
    """One picture of a page for each of `VIEWS`."""
    for view, (width, height, scheme) in VIEWS.items():
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        tab.goto(page.resolve().as_uri())
        with Image.open(io.BytesIO(tab.screenshot())) as picture:
            few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(HERE / "pictures" / f"{name}-{view}.png", optimize=True)
        tab.close()


def main() -> None:
    (HERE / "pictures").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = {"comparison": comparison(Path(folder) / "lenet_300_100"), "run": run(Path(folder))}
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, page in pages.items():
            photograph(browser, page, name)
        browser.close()


if __name__ == "__main__":
    main()

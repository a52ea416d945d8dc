"""The README as somebody sees it who has nothing: the wheel in an empty environment, and its blocks as they are typed.

    python benchmarks/fresh_install.py --work FOLDER [--python python3.11] [--quick]

Builds the wheel, makes a virtual environment in FOLDER, installs the wheel there, and runs every line of the README's
console blocks below "A trained network" and "A sparse network", and its Python, in empty folders. `train/` and `test/`
are the embedded digits as images. Each line is printed with its exit code and its seconds. With `--quick` runs are cut
to 20 steps and one epoch; the gate of the last line then fails, as it should.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"prune": "--steps 20", "finetune": "--epochs 1"}


def run(command: str, folder: Path, environment: dict[str, str]) -> int:
    print(f"$ {command}", flush=True)
    begun = time.monotonic()
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, check=False, executable="/bin/bash")
    print(f"exit {done.returncode}, {time.monotonic() - begun:.0f} s\n", flush=True)
    return done.returncode


def blocks(kind: str, heading: str) -> str:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"# {heading}\n", 1)[1]
    found = re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def write_images(folder: Path) -> None:
    with np.load(ROOT / "ntt_cli/resources/digits.npz") as digits:
        for split in ("train", "test"):
            images, labels = digits[f"x_{split}"], digits[f"y_{split}"]
            scale = 255 / images.max()
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                target = folder / split / str(int(label))
                target.mkdir(parents=True, exist_ok=True)
                Image.fromarray((image[0] * scale).astype("uint8")).save(target / f"{i}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    for command in (
        f"{given.python} -m pip wheel --quiet --no-deps --wheel-dir {work} {ROOT}",
        f"{given.python} -m venv {work}/venv",
        f"{work}/venv/bin/pip install --quiet {work}/*.whl",
    ):
        if run(command, work, plain):
            sys.exit(1)
    plain["PATH"] = f"{work}/venv/bin:{plain['PATH']}"
    for heading in ("A trained network, no labels", "A sparse network to train"):
        folder = work / heading.split()[1]
        folder.mkdir()
        if "--data train/" in blocks("console", heading):
            run("ntt init --quiet", folder, plain)
            write_images(folder)
        for line in blocks("console", heading).splitlines():
            command = line.removeprefix("$ ").partition("  #")[0].rstrip()
            budget = QUICK.get(command.split()[1], "") if given.quick else ""
            run(f"{command} {budget}".rstrip(), folder, plain)
    (work / "script.py").write_text(blocks("python", "From Python"), encoding="utf-8")
    run("python script.py", work, plain)


if __name__ == "__main__":
    main()

"""What is published is whole: the wheel and the sdist, and the command of a fresh installation."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).parent.parent
PACKAGE = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "ntt_cli").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
NOT_SOURCES = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "mutants", "shared")
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""The environment without the tree, so that a new installation finds its own package alone."""


def run(*command: str | Path, cwd: Path) -> str:
    done = processes.run(command, cwd=cwd, env=OUTSIDE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    tree = tmp_path_factory.mktemp("tree") / "ntt"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCES)
    out = tree.parent / "dist"
    run(sys.executable, "-m", "build", "--outdir", out, tree, cwd=tree.parent)
    return out


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == PACKAGE
    assert {"ntt_cli/py.typed", "ntt_cli/__main__.py"} < held


def test_the_sdist_holds_what_the_tests_need(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    pages = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "pyproject.toml"}
    assert PACKAGE | tests | pages <= held
    assert not [name for name in held if "__pycache__" in name]


def test_the_wheel_works_in_a_new_environment(dist: Path, tmp_path: Path) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "empty"
    folder.mkdir()
    venv.create(environment)
    python = environment / "bin/python"
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # torch and the others come from the environment of the tests, behind the new one's own packages. The .pth files in
    # it, and with them an editable installation of the tree, are not read.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))

    imported = run(python, "-c", "import ntt_cli; print(ntt_cli.__file__)", cwd=folder).strip()
    assert Path(imported) == site / "ntt_cli/__init__.py"
    ntt = environment / "bin/ntt"
    assert re.fullmatch(r"ntt \d+\.\d+\.\d+\n", run(ntt, "--version", cwd=folder))
    run(ntt, "init", cwd=folder)
    run(ntt, "prune", "model.py", "-s", "0.9", "--steps", "2", cwd=folder)
    assert (folder / "sparse.safetensors").stat().st_size > 0


def test_the_lowest_versions_of_ci_are_those_of_the_package() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "constraints/lowest.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [line.replace(">=", "==") for line in dependencies]

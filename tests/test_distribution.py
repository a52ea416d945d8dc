"""What is published is whole: the wheel and the sdist, and the command of a fresh installation."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import ntt_cli
from tests import processes

ROOT = Path(__file__).parent.parent
PACKAGE = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "ntt_cli").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
BESIDE = (".github", "benchmarks", "constraints", "docs", "sample_models", "tests")
"""Folders that the sdist holds whole."""
NOT_SOURCES = shutil.ignore_patterns(
    ".[!g]*", ".git", "__pycache__", "*.egg-info", "build", "dist", "mutants", "shared"
)
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""The environment without the tree, so that a new installation finds its own package alone."""


REPOSITORY = "https://forge.example/someone/ntt"


def run(*command: str | Path, cwd: Path) -> str:
    done = processes.run(command, cwd=cwd, env=OUTSIDE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it, as `.github/workflows/release.yml` makes them."""
    tree = tmp_path_factory.mktemp("tree") / "ntt"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCES)
    out = tree.parent / "dist"
    release = ("--repository", REPOSITORY, "--tag", f"v{ntt_cli.__version__}")
    run(sys.executable, "docs/make_release.py", *release, cwd=tree)
    compiling = {name: value for name, value in OUTSIDE.items() if name != "PYTHONDONTWRITEBYTECODE"}
    build = [sys.executable, "-m", "build", "--outdir", out, tree]
    done = processes.run(build, cwd=tree.parent, env=compiling, stderr=subprocess.STDOUT, limit=240)
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if "warning" in line.lower()] == []
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
    beside = {
        path.relative_to(ROOT).as_posix()
        for folder in BESIDE
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    pages = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "pyproject.toml"}
    assert PACKAGE | beside | pages <= held
    assert not [name for name in held if "__pycache__" in name]


def test_the_page_on_pypi_leads_to_the_repository(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert urls["Source"] == REPOSITORY
    assert urls["Paper"] == "https://arxiv.org/abs/2006.08228"
    at = f"v{ntt_cli.__version__}"
    for target in ("Documentation", "Changelog"):
        path = urls[target].removeprefix(f"{REPOSITORY}/blob/{at}/").partition("#")[0]
        assert (ROOT / path).is_file()
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert f"({REPOSITORY}/raw/{at}/docs/trained.svg)" in description
    assert f"({REPOSITORY}/blob/{at}/docs/results.md)" in description
    text = re.sub(r"```.*?```|`[^`]*`", "", description, flags=re.DOTALL)
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", text) == []


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("onnx", "coreml", "docs")]
    dependencies = [line for lines in (project["dependencies"], *extras) for line in lines]
    lines = (ROOT / "constraints/lowest.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [line.replace(">=", "==") for line in dependencies]

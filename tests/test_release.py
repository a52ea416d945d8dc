"""The release: what its script changes and refuses, and that the workflows are what GitHub takes."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ntt_cli
from tests.processes import run

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github/workflows"
TAG = f"v{ntt_cli.__version__}"
HERE = "https://forge.example/someone/ntt"


@pytest.fixture
def make_release(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return import_module("make_release")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What of a checkout the script looks at."""
    (tmp_path / "ntt_cli").mkdir()
    for name in ("README.md", "pyproject.toml", "CHANGELOG.md", "ntt_cli/__init__.py", "docs/make_release.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("[a](docs/x.md#y)", f"[a]({HERE}/blob/v1/docs/x.md#y)"),
        ("![a](docs/x.svg)", f"![a]({HERE}/raw/v1/docs/x.svg)"),
        ("[`a`](x) and [b](y)", f"[`a`]({HERE}/blob/v1/x) and [b]({HERE}/blob/v1/y)"),
        ("[a](https://b.example/c)", "[a](https://b.example/c)"),
        ("[a](#b) and [c](mailto:d@e.example)", "[a](#b) and [c](mailto:d@e.example)"),
        ("`m[a](b)`", "`m[a](b)`"),
        ("```python\nm[a](b)\n```\n[c](d)", f"```python\nm[a](b)\n```\n[c]({HERE}/blob/v1/d)"),
    ],
)
def test_relative_links_lead_to_the_tag(make_release: Any, written: str, wanted: str) -> None:
    assert make_release.with_absolute_links(written, HERE, "v1") == wanted


@pytest.mark.parametrize(
    ("tag", "file", "old", "new", "message"),
    [
        ("v9.9.9", "README.md", "", "", f"ntt_cli.__version__ is {TAG[1:]}: tag {TAG}"),
        (TAG[1:], "README.md", "", "", f"tag {TAG}"),
        (TAG, "CHANGELOG.md", f"## [{TAG[1:]}] - ", "## [0.0.1] - ", "CHANGELOG.md has no entries below"),
        (TAG, "CHANGELOG.md", f"## [{TAG[1:]}] - ", f"## [{TAG[1:]}] - 2026-01-01\n\n## [0.0.1] - ", "no entries"),
        (TAG, "pyproject.toml", "[project.urls]\n", f'[project.urls]\nSource = "{HERE}"\n', "a clean checkout"),
    ],
)
def test_a_tree_that_may_not_be_released_is_left_as_it_is(
    tree: Path, tag: str, file: str, old: str, new: str, message: str
) -> None:
    (tree / file).write_text((tree / file).read_text().replace(old, new, 1))
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    done = run([sys.executable, "docs/make_release.py", "--repository", HERE, "--tag", tag], cwd=tree)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


def load(workflow: Path) -> Any:
    """The document, in which YAML 1.1 reads the key `on` as true."""
    return pytest.importorskip("yaml", reason="pip install -e '.[dev]'").safe_load(workflow.read_text())


@pytest.mark.parametrize("workflow", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_workflows_are_what_github_takes(workflow: Path) -> None:
    document = load(workflow)
    assert set(document) <= {"name", True, "permissions", "concurrency", "env", "defaults", "jobs"}
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job), name
        assert {job["needs"]} <= set(document["jobs"]) if "needs" in job else True
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if "run" in step:
                done = run(["bash", "-n", "-c", step["run"].replace("${{", "{{")])
                assert done.returncode == 0, done.stderr


def test_only_what_was_built_and_tried_is_published() -> None:
    release = load(WORKFLOWS / "release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}
    build, publish = (release["jobs"][name] for name in ("build", "publish"))
    assert publish["needs"] == "build"
    assert (publish["permissions"], publish["environment"]["name"]) == ({"id-token": "write"}, "pypi")
    assert "permissions" not in build
    assert not [step for step in publish["steps"] if "run" in step]
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")


def test_the_first_command_of_a_release_makes_the_tree_ready(tree: Path) -> None:
    (command,) = (
        step["run"]
        for step in load(WORKFLOWS / "release.yml")["jobs"]["build"]["steps"]
        if "make_release" in step.get("run", "")
    )
    said = {"GITHUB_SERVER_URL": "https://forge.example", "GITHUB_REPOSITORY": "someone/ntt", "GITHUB_REF_NAME": TAG}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run(["bash", "-e", "-c", command], cwd=tree, env=os.environ | said | {"PATH": path})
    assert done.returncode == 0, done.stderr
    assert f"({HERE}/raw/{TAG}/docs/trained.svg)" in (tree / "README.md").read_text()
    assert tomllib.loads((tree / "pyproject.toml").read_text())["project"]["urls"]["Issues"] == f"{HERE}/issues"

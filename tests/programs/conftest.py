from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ntt_cli.data.batch import Batch
from tests.processes import run

WITHOUT_OURS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ntt_cli", "transformers", "tests"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder without anything."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def run_elsewhere(code: str, folder: Path, *arguments: object) -> str:
    """What a Python prints that can import neither ntt nor the networks of the tests."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", WITHOUT_OURS + code, *map(str, arguments)]
    done = run(command, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def named(x: Batch) -> dict[str, object]:
    return x if isinstance(x, dict) else {}

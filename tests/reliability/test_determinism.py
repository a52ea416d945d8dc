"""The same run gives the same bytes. `make torture` does all of `benchmarks/determinism.py`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.processes import LIMIT_SECONDS, run

ROOT = Path(__file__).parent.parent.parent
TORTURE = "NTT_TORTURE" in os.environ
SHORT = ["--runs", "1", "--threads", "1", "--seeds", "0", "--hash-seeds", "0,1"]


@pytest.mark.parametrize("options", [pytest.param([], marks=pytest.mark.skipif(not TORTURE, reason="minutes")), SHORT])
def test_the_same_bytes(options: list[str]) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "determinism.py"), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run(command, env=environment, limit=3600 if TORTURE else LIMIT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"another hash seed: the bytes differ in 0 of \d+ groups", done.stdout), done.stdout

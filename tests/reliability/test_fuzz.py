"""Damaged and invented files through every reader, under Hypothesis here and under atheris in `make torture`.

Only the project's own errors may come out. What once did otherwise is a case in the test beside the reader's module.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.processes import run
from tests.reliability.targets import TARGETS, Target

ROOT = Path(__file__).parent.parent.parent
TORTURE = "NTT_TORTURE" in os.environ
CASES = 10_000 if TORTURE else 60
SECONDS = 60
NUMBERS = [b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", bytes(8), b"\x01" + bytes(7), b"9" * 30, b"-1"]
WORDS = [b"null", b"NaN", b"1e999", b"[" * 50, b'{"a":' * 50, b"\\ud800", b"\x1b[2J", b"9" * 5000]

EDITS = st.tuples(
    st.sampled_from(["replace", "insert", "delete", "repeat"]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=8) | st.sampled_from(NUMBERS) | st.sampled_from(WORDS),
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, piece in edits:
        at = int(place * len(data))
        match kind:
            case "replace":
                data = data[:at] + piece + data[at + len(piece) :]
            case "insert":
                data = data[:at] + piece + data[at:]
            case "delete":
                data = data[:at] + data[at + len(piece) :]
            case _:
                data = data[:at] + data[at : at + 64 * len(piece)] + data[at:]
    return data


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]


@pytest.mark.parametrize("target", TARGETS, indirect=True)
def test_the_files_to_start_from_are_read(target: Target, tmp_path: Path) -> None:
    accepted = [target.attempt(seed, tmp_path) for seed in target.seeds]
    assert all(accepted) or target.read.__name__ in {"read_checkpoint", "_report"}  # with hashes of nothing
    assert any(accepted) or target.read.__name__ == "_report"


@pytest.mark.parametrize("target", TARGETS, indirect=True)
def test_only_the_projects_own_errors(target: Target, tmp_path: Path) -> None:
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.sampled_from(target.seeds), edits=st.lists(EDITS, max_size=6), invented=st.binary(max_size=64))
    def attempt(seed: bytes, edits: list[tuple[str, float, bytes]], invented: bytes) -> None:
        target.attempt(edited(seed, edits) if edits else invented, tmp_path)

    attempt()


@pytest.mark.skipif(not TORTURE, reason="a minute for each reader: make torture")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="pip install atheris, where it has a wheel")
@pytest.mark.parametrize("name", TARGETS)
def test_atheris_finds_nothing(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.reliability.fuzz", name, f"-max_total_time={SECONDS}"]
    done = run(
        [*command, f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs, done.stderr[-3000:]
    print(f"{name}: {int(runs[1]):,} runs")  # noqa: T201  # with -s

"""Runs that are killed: the files are the old ones or the new ones, and a resumed run ends in the same bytes."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import started
from tests.reliability.conftest import FILES, TORTURE, Driver, Outcome, Prepared, outputs

EVERY = 1 if TORTURE else 8
SYSTEM_CALLS = "write,writev,pwrite64,pwritev,ftruncate,truncate,fsync,fdatasync,/^rename,/^unlink,/^link"
RANDOM_KILLS = 100 if TORTURE else 2


def check_whole(prepared: Prepared, folder: Path) -> None:
    """Each file is the old or the new one, and the report is never newer than its checkpoint."""
    found = outputs(folder)
    for name in FILES:
        assert found[name] in {prepared.old[name], prepared.new[name]}, name
    if found[FILES[1]] == prepared.new[FILES[1]]:
        assert found[FILES[0]] == prepared.new[FILES[0]]


def check_resumed(prepared: Prepared, folder: Path, driver: Driver) -> Outcome:
    done = driver.run(folder, prepared.command, "--resume")
    assert done.status == 0, done.stderr
    assert outputs(folder) == prepared.new
    assert {path.name for path in folder.iterdir()} == {path.name for path in prepared.folder.iterdir()}
    return done


@pytest.mark.parametrize("how", ["kill", "tear"])
def test_killed_at_every_call(
    prepared: Prepared, driver: Driver, tmp_path: Path, how: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("calls", prepared.calls)
    for number in range(1 + (how == "tear") * EVERY // 2, prepared.calls + 1, EVERY):
        folder = prepared.copy(tmp_path / "run")
        assert driver.run(folder, prepared.command, at=number, how=how).status == -9
        check_whole(prepared, folder)
        done = check_resumed(prepared, folder, driver)
        if number > prepared.calls / 2:
            # Steps whose state was saved were not taken, and saved, again.
            assert done.calls is not None
            assert done.calls < prepared.calls * 3 / 4


def traceable() -> bool:
    """Whether strace is here and may watch other processes than its own children."""
    if shutil.which("strace") is None:
        return False
    with (
        started(["sleep", "60"]) as other,
        started(["strace", "-p", str(other.pid)], stderr=subprocess.PIPE) as tracer,
    ):
        assert tracer.stderr is not None
        return "attached" in tracer.stderr.readline()


def system_calls(driver: Driver) -> list[str]:
    """Those that the last run made and strace saw, each with its number among those of its name, as in `fsync 3`."""
    names = re.findall(r"^\d+ +(\w+)\(", (driver.logs / "0.log.strace").read_text(), re.MULTILINE)
    return [f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]


@pytest.mark.skipif(not traceable(), reason="needs strace, and the right to trace")
def test_killed_at_every_system_call(
    prepared: Prepared, driver: Driver, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    driver.run(prepared.copy(tmp_path / "run"), prepared.command, strace=f"trace={SYSTEM_CALLS}")
    calls = system_calls(driver)
    record_property("calls", len(calls))
    assert {"write", "pwrite64", "ftruncate", "fsync", "rename"} <= {call.split()[0] for call in calls}
    for call in calls[::EVERY]:
        folder = prepared.copy(tmp_path / "run")
        name, number = call.split()
        killed = driver.run(folder, prepared.command, strace=f"inject={name}:signal=SIGKILL:when={number}")
        assert killed.status == -9, call
        check_whole(prepared, folder)
        check_resumed(prepared, folder, driver)


def test_killed_at_random_moments(prepared: Prepared, driver: Driver, tmp_path: Path) -> None:
    begun = time.monotonic()
    driver.run(prepared.copy(tmp_path / "run"), prepared.command)
    seconds = time.monotonic() - begun
    chance = random.Random(0)
    for _ in range(RANDOM_KILLS):
        folder = prepared.copy(tmp_path / "run")
        assert driver.run(folder, prepared.command, after=chance.uniform(0, seconds)).status in {-9, 0}
        check_whole(prepared, folder)
        check_resumed(prepared, folder, driver)


def test_ten_kills_in_a_row(prepared: Prepared, driver: Driver, tmp_path: Path) -> None:
    folder = prepared.copy(tmp_path / "run")
    # Far enough for a step to be saved now and then, so that it advances.
    for number in range(8, 18):
        assert driver.run(folder, prepared.command, "--resume", at=number).status == -9
        check_whole(prepared, folder)
    check_resumed(prepared, folder, driver)


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_at_any_moment(prepared: Prepared, driver: Driver, tmp_path: Path, number: int, code: int) -> None:
    chance = random.Random(number)
    begun = time.monotonic()
    driver.run(prepared.copy(tmp_path / "run"), prepared.command)
    seconds = time.monotonic() - begun
    for _ in range(RANDOM_KILLS):
        folder = prepared.copy(tmp_path / "run")
        done = driver.run(folder, prepared.command, after=chance.uniform(0.05, seconds), signal=number)
        assert done.status in {code, 0}, done.stderr
        assert "Traceback" not in done.stderr
        check_whole(prepared, folder)
        check_resumed(prepared, folder, driver)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_networks import write_network

ROOT = Path(__file__).parents[2]
TORTURE = "NTT_TORTURE" in os.environ

# Without kernels a run takes a third of the time, and writes the same files.
PRUNE = "prune convolutional.py -s 0.8 --steps 4 --mask-update-every 2 --limit 12 --batch-size 8 --kernel-weight 0"
COMMANDS: dict[str, list[str]] = {
    "prune": PRUNE.split(),
    "finetune": "finetune dropout.py --epochs 2 --batch-size 12 --data data.npz".split(),
}
SHARED = ["--device", "cpu", "-o", "x.safetensors", "--checkpoint-every", "0", "-q", "--force"]
FILES = ("x.safetensors", "x.report.safetensors")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code or, negative, the signal; the calls that it counted; what it said."""

    status: int
    calls: int | None
    stderr: str
    pid: int


class Driver:
    """Runs of `ntt` in forks of a process that has torch loaded."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def at_once(self, folder: Path, runs: Sequence[Sequence[str]], **fault: Any) -> list[Outcome]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        orders = [
            {"folder": str(folder), "arguments": list(run), "log": str(self.logs / f"{number}.log"), "fault": fault}
            for number, run in enumerate(runs)
        ]
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        return [Outcome(**answer) for answer in json.loads(self.process.stdout.readline())]

    def run(self, folder: Path, command: str, *more: str, **fault: Any) -> Outcome:
        return self.at_once(folder, [[*COMMANDS[command], *SHARED, *more]], **fault)[0]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Generator[Driver]:
    started = Driver(tmp_path_factory.mktemp("logs"))
    yield started
    # By a signal: the end of its stdin may never come, which processes that were forked here meanwhile hold open.
    started.process.kill()
    started.process.communicate()


@dataclass(frozen=True)
class Prepared:
    """A folder with the outputs of an earlier run, and what they are before and after the run under test.

    Attributes:
        folder: to be copied.
        old: the bytes of the outputs there.
        new: those that an uninterrupted run writes.
        calls: how many it takes that change the file system.
        seconds: about how long it takes.
    """

    folder: Path
    command: str
    old: Mapping[str, bytes]
    new: Mapping[str, bytes]
    calls: int

    def copy(self, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder, to)
        return to


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


@pytest.fixture(scope="session", params=COMMANDS)
def prepared(request: pytest.FixtureRequest, driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("convolutional", "dropout"):
        write_network(name, folder)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, 10, 40))
    done = driver.run(folder, request.param, "--seed", "1")
    assert done.status == 0, done.stderr
    whole = tmp_path_factory.mktemp("whole")
    shutil.copytree(folder, whole, dirs_exist_ok=True)
    done = driver.run(whole, request.param)
    assert done.status == 0, done.stderr
    assert done.calls is not None
    return Prepared(folder, request.param, outputs(folder), outputs(whole), done.calls)

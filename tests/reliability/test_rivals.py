"""Runs started at once on one output: one works, the others say who does, and no file is a mixture."""

from __future__ import annotations

import re
from pathlib import Path

from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.metadata import CheckpointRecord, ReportRecord, read_header
from tests.reliability.conftest import COMMANDS, FILES, SHARED, TORTURE, Driver, Prepared

ROUNDS = 20 if TORTURE else 1
RUNS = 8


def test_runs_at_once_on_one_output(prepared: Prepared, driver: Driver, tmp_path: Path) -> None:
    names = {path.name for path in prepared.folder.iterdir()}
    for _ in range(ROUNDS):
        folder = prepared.copy(tmp_path / "run")
        command = [*COMMANDS[prepared.command], *SHARED]
        done = driver.at_once(folder, [[*command, "--seed", str(seed)] for seed in range(RUNS)])
        # One that starts late may find the output free again.
        assert {run.status for run in done} == {0, 2}
        for run in done:
            if run.status == 2:
                said = re.search(r"another run is at work on it: pid (\d+) on \S+ since \d{4}-", run.stderr)
                assert said, run.stderr
                assert int(said[1]) in {other.pid for other in done}
        checkpoint, report = (read_header(folder / name).record for name in FILES)
        assert isinstance(checkpoint, CheckpointRecord)
        assert isinstance(report, ReportRecord)
        assert checkpoint.run_sha256 == report.run_sha256
        assert done[checkpoint.config["seed"]].status == 0
        assert read_checkpoint(folder / FILES[0]).record is not None
        assert {path.name for path in folder.iterdir()} == names

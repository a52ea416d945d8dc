"""SQLite's way: the Nth call that changes the file system fails, for N = 1, 2, … until a run passes untouched."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.report_reader import read_report
from tests.reliability.conftest import FILES, TORTURE, Driver, Prepared, outputs
from tests.reliability.test_kills import check_resumed, check_whole

EVERY = 1 if TORTURE else 8


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_the_nth_call_fails(prepared: Prepared, driver: Driver, tmp_path: Path, error: int) -> None:
    number, untouched = 1 + (error == errno.EIO) * EVERY // 2, False
    while not untouched:
        folder = prepared.copy(tmp_path / "run")
        done = driver.run(folder, prepared.command, at=number, how=error)
        # A state that cannot be saved, and a file that cannot be removed, end no run.
        assert done.status in {0, 2}, done.stderr
        assert "Traceback" not in done.stderr
        check_whole(prepared, folder)
        read_checkpoint(folder / FILES[0])
        read_report(folder / FILES[1])
        if done.status == 2:
            assert "error: " in done.stderr
            assert "hint: " in done.stderr
        else:
            assert outputs(folder) == prepared.new
        check_resumed(prepared, folder, driver)
        assert done.calls is not None
        untouched = done.calls < number
        number += EVERY

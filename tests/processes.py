"""Processes that tests start: each has a limit of time, and neither it nor what it starts outlives its test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

LIMIT_SECONDS = 120.0
"""Below the limit of a test in pyproject.toml, so that a process that hangs is what a failure names."""


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], *, limit: float = LIMIT_SECONDS, **options: Any
) -> Generator[subprocess.Popen[str]]:
    """A process in a session of its own, all of which is killed at the end of the block, or at the limit.

    Then its pipes end, so that whatever reads them goes on, and the test fails. Python says on stderr where it hung.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        _signal(process, signal.SIGABRT)  # on which Python's fault handler writes the stacks of all threads
        time.sleep(1)
        _signal(process, signal.SIGKILL)

    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        timer = threading.Timer(limit, end)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            _signal(process, signal.SIGKILL)
            process.wait()
            if late.is_set():
                pytest.fail(f"did not end within {limit:.0f} s: {' '.join(map(str, command))}")


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """What a process that ends by itself leaves: its exit code, stdout and stderr."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, **streams | options) as process:
        out, err = process.communicate()
        if process.returncode:
            sys.stderr.write(err or "")  # for a failure's report
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)

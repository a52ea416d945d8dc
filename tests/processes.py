"""Processes that tests start: each has a limit of time, and neither it nor what it starts outlives its test."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ntt_cli.cli.app import main

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


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "ntt_cli.pruning.prune",
    "ntt_cli.training.finetune",
    "pytest",
    "torch._decomp.decompositions_for_jvp",
    "torch._dynamo",
])
"""Its processes are forks of one that has torch loaded, which takes seconds."""


class Fork:
    """A run of `ntt` in a process that has torch loaded, with environment variables of its own."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], streams: Path) -> None:
        self._streams = streams / "out", streams / "err"
        for path in self._streams:
            path.touch()
        process = FORKS.Process(target=_run_ntt, args=(arguments, os.environ | environment, self._streams))
        process.start()
        self.process = process

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def outcome(self) -> tuple[int, str, str]:
        """Exit code (negative: a signal), stdout and stderr, once the process has ended."""
        self.process.join(LIMIT_SECONDS)
        if late := self.process.is_alive():
            self.send_signal(signal.SIGABRT)  # on which Python's fault handler writes the stacks of all threads
            self.process.join(1)
        out, err = (path.read_text() for path in self._streams)
        if late:
            pytest.fail(f"did not end within {LIMIT_SECONDS:.0f} s: {err}")
        assert self.process.exitcode is not None
        return self.process.exitcode, out, err


@contextlib.contextmanager
def forked(arguments: Sequence[str], environment: Mapping[str, str]) -> Generator[Fork]:
    """That run in the working folder, killed at the end of the block."""
    with tempfile.TemporaryDirectory() as streams:
        fork = Fork(arguments, environment, Path(streams))
        try:
            yield fork
        finally:
            fork.process.kill()
            fork.process.join()


def _run_ntt(arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    main(list(arguments))

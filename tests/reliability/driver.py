"""A process that has torch loaded and forks a run of `ntt` for each line on stdin, faults included.

A line is a JSON list of runs to start at once, each with `folder`, `arguments` and, if wanted, `fault`:
`{"at": N, "how": "kill" | "tear" | errno}` acts at the Nth call that changes the file system. `kill` is SIGKILL, in a
write half-way through; `tear` is a power cut: what was not synchronised is lost as well. `{"after": seconds}` kills
from outside. `{"strace": "EXPRESSION"}` has strace watch the run, and meddle with it where the expression says so; what
it saw is beside the run's log. The answer is a JSON list of each run's `status` (negative: a signal), `calls` and
`stderr`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import torch  # noqa: E402

from ntt_cli.cli.app import main  # noqa: E402
from ntt_cli.runtime.signals import leaving  # noqa: E402
from tests.small_networks import write_network  # noqa: E402

LIMIT_SECONDS = 120
"""A run that takes longer ends with exit code 1, and says where it was."""

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore


class Faults:
    """Counts the calls that change the file system, and acts at one of them."""

    def __init__(self, at: int | None, how: str | int) -> None:
        self.at, self.how, self.calls = at, how, 0
        self.unsynced: dict[str, bool] = {}
        self.names: dict[int, str] = {}

    def due(self) -> bool:
        self.calls += 1
        return self.calls == self.at

    def act(self) -> None:
        if self.how == "tear":
            for name in self.unsynced:
                with contextlib.suppress(OSError):
                    os.truncate(name, os.path.getsize(name) // 2)
        if isinstance(self.how, str):
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.how, os.strerror(self.how))

    def wrap(self, name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.due():
                self.act()
            if name == "fsync":
                self.unsynced.pop(self.names.get(arguments[0], ""), None)
            if name in {"replace", "rename"} and self.unsynced.pop(os.fspath(arguments[0]), None):
                self.unsynced[os.fspath(arguments[1])] = True
            return real(*arguments, **options)

        setattr(os, name, call)

    def wrap_open(self) -> None:
        real = io.open
        faults = self

        class Written:
            """A file whose writes count; a fault comes when half of the data are there."""

            def __init__(self, file: Any, name: str) -> None:
                self.file = file
                faults.names[file.fileno()] = name
                faults.unsynced[name] = True

            def write(self, data: bytes) -> int:
                if faults.due():
                    self.file.write(data[: len(data) // 2])
                    self.file.flush()
                    faults.act()
                return int(self.file.write(data))

            def __enter__(self) -> Written:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wxa+") or options.get("opener"):
                return real(file, mode, *arguments, **options)
            if faults.due():
                faults.act()
            return Written(real(file, mode, *arguments, **options), os.fspath(file))

        io.open = opened


def trace(pid: int, expression: str, log: str) -> None:
    """Return when strace watches the process."""
    command = ["strace", "--follow-forks", "-p", str(pid), "-o", f"{log}.strace", "-e", expression]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    assert "attached" in said, said


def start(run: dict[str, Any]) -> int:
    fault = run.get("fault") or {}
    gate = os.pipe()
    pid = os.fork()
    if pid:
        if expression := fault.get("strace"):
            trace(pid, expression, run["log"])
        for end in gate[::-1]:
            os.close(end)
        return pid
    os.close(gate[1])
    os.read(gate[0], 1)  # until the parent closes its end
    os.close(gate[0])
    os.setpgid(0, 0)
    os.chdir(run["folder"])
    # Apart from the working folder, which holds what ntt writes alone.
    log = Path(run["log"]).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115
    os.dup2(log.fileno(), 2)
    os.dup2(log.fileno(), 1)
    faults = Faults(fault.get("at"), fault.get("how", "kill"))
    for name in ("open", "fsync", "replace", "rename", "unlink", "ftruncate", "pwrite"):
        faults.wrap(name)
    faults.wrap_open()
    code = 1
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    try:
        main(run["arguments"])
    except SystemExit as exit:
        code = int(exit.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, f"\n{faults.calls}".encode())
        os._exit(code)


def finish(run: dict[str, Any], pid: int) -> dict[str, Any]:
    if (after := (run.get("fault") or {}).get("after")) is not None:
        time.sleep(after)
        os.kill(pid, (run["fault"]).get("signal", signal.SIGKILL))
    _, status = os.waitpid(pid, 0)
    text = Path(run["log"]).read_text(encoding="utf-8")
    said, _, calls = text.rpartition("\n")
    return {
        "status": os.waitstatus_to_exitcode(status),
        "calls": int(calls) if calls.isdecimal() else None,
        "stderr": said,
        "pid": pid,
    }


def warm_up() -> None:
    """A run of each command in this process, for what torch loads late."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr), contextlib.chdir(folder):
        model = write_network("convolutional")
        for command in (["prune", model, "-s", "0.5", "--steps", "2"], ["finetune", model, "--epochs", "1"]):
            with contextlib.suppress(SystemExit):
                main([*command, "-d", "digits", "--limit", "20", "--device", "cpu", "-q"])


if __name__ == "__main__":
    warm_up()
    with leaving():  # as `main` does, for the moments before it and after it
        for line in sys.stdin:
            runs = json.loads(line)
            pids = [start(run) for run in runs]
            print(json.dumps([finish(run, pid) for run, pid in zip(runs, pids, strict=True)]), flush=True)  # noqa: T201

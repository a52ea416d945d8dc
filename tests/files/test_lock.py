from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ntt_cli.errors import OutputError
from ntt_cli.files import lock
from ntt_cli.files.lock import lock_path, locked
from tests.processes import started

HOLD = "import sys, time; from pathlib import Path; from ntt_cli.files.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_one_at_a_time_and_who(tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    with locked(output) as alone:
        assert alone
        with pytest.raises(OutputError) as caught, locked(output):
            pytest.fail("two hold it")
    assert caught.value.where == str(output)
    found = re.fullmatch(r"another run is at work on it: pid (\d+) on (\S+) since (\S+ \S+)", caught.value.what)
    assert found
    assert int(found[1]) == os.getpid()
    assert not list(tmp_path.iterdir())
    with locked(output), locked(tmp_path / "y.safetensors"):
        pass


def test_a_dead_holders_lock_is_free(tmp_path: Path) -> None:
    output = tmp_path / "x"
    with started([sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"pid {holder.pid} "), locked(output):
            pytest.fail("two hold it")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert lock_path(output).exists()
    with locked(output):
        assert f"pid {os.getpid()} " in lock_path(output).read_text()
    assert not lock_path(output).exists()


def test_a_lock_that_its_holder_removes_meanwhile(tmp_path: Path) -> None:
    """Many takers, each of whom may open the file of the one before: never two at a time."""
    output, inside, taken = tmp_path / "x", [0], [0]

    def take() -> None:
        for _ in range(50):
            try:
                with locked(output):
                    inside[0] += 1
                    assert inside[0] == 1
                    taken[0] += 1
                    inside[0] -= 1
            except OutputError:
                pass

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert taken[0] > 0
    assert inside[0] == 0


def refusing(number: int) -> Any:
    def flock(*_: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return flock


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with locked(tmp_path / "x") as alone:
        assert not alone
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OutputError, match="cannot be locked: Input/output error"), locked(tmp_path / "x"):
        pytest.fail("it has no lock")


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.0)
    with locked(tmp_path / "x"):
        lock_path(tmp_path / "x").write_text("")
        with pytest.raises(OutputError, match="it has not said which"), locked(tmp_path / "x"):
            pytest.fail("two hold it")


PRECIOUS = "forty thousand words\n"


def plant(kind: str, path: Path, precious: Path) -> None:
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "dangling link":
        path.symlink_to(precious.with_name("not there"))
    elif kind == "hard link":
        path.hardlink_to(precious)
    elif kind == "somebody's file":
        path.write_text(PRECIOUS)
    elif kind == "large file":
        path.write_text("pid 1" + 2000 * " ")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "hard link", "somebody's file", "large file", "pipe", "socket", "folder"]
)
def test_what_lies_in_the_lock_s_place_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    precious, output = Path("thesis.tex"), Path("x")
    precious.write_text(PRECIOUS)
    plant(kind, lock_path(output), precious)
    before = lock_path(output).lstat()
    with pytest.raises(OutputError) as caught, locked(output):
        pytest.fail("it is locked")
    assert (caught.value.where, caught.value.exit_code) == (".x.lock", 2)
    assert "is in the place of a lock, and is none" in caught.value.what
    assert "remove it; or name a file elsewhere" in caught.value.hint
    assert precious.read_text() == PRECIOUS
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".x.lock"}
    after = lock_path(output).lstat()
    assert (after.st_ino, after.st_size, after.st_mode) == (before.st_ino, before.st_size, before.st_mode)


@pytest.mark.parametrize("text", ["", "pi", "pid 4711 on elsewhere since 2026-01-01 00:00:00+00:00", 30 * "\0"])
def test_what_a_dead_holder_left_is_taken_over(tmp_path: Path, text: str) -> None:
    lock_path(tmp_path / "x").write_text(text)
    with locked(tmp_path / "x") as alone:
        assert alone
        assert f"pid {os.getpid()} " in lock_path(tmp_path / "x").read_text()


def test_a_lock_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(*_: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", act)
    with pytest.raises(OutputError, match="cannot be locked: Permission denied"), locked(tmp_path / "x"):
        pytest.fail("it is locked")

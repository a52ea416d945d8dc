from __future__ import annotations

import io
import json
import os
import signal
import warnings
from collections.abc import Callable
from typing import NoReturn

import pytest
import typer
from rich.console import Console

from ntt_cli.cli.run import call, guarded
from ntt_cli.cli.streams import NobodyReads, Streams, make_streams
from ntt_cli.errors import DataError, DivergedError, ModelError, OutputError
from ntt_cli.pruning import prune
from tests.cli.conftest import MODEL, Ntt


def run(work: Callable[[], object], *, debug: bool = False) -> tuple[int, str]:
    """The exit code and what stderr says."""
    err = io.StringIO()
    streams = Streams(out=Console(file=io.StringIO()), err=Console(file=err, width=40), mode="human", quiet=False)
    try:
        with guarded(streams, debug=debug):
            work()
    except typer.Exit as exit:
        return exit.exit_code, err.getvalue()
    return 0, err.getvalue()


def failing(error: BaseException) -> Callable[[], NoReturn]:
    def work() -> NoReturn:
        raise error

    return work


BUG = "hint: this is a bug in ntt; run again with --debug and report what it prints\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            DataError("x.npy", "is [bold]empty[/bold]", hint="fill it"),
            2,
            "error: x.npy: is [bold]empty[/bold]\nhint: fill it\n",
        ),
        (OutputError("x", "is a folder", hint="name a file"), 2, "error: x: is a folder\nhint: name a file\n"),
        (DivergedError("step 3", "not finite", hint="slower"), 3, "error: step 3: not finite\nhint: slower\n"),
        (KeyError("fc[1]"), 70, f"internal error: KeyError: 'fc[1]'\n{BUG}"),
        (RuntimeError("a line that is longer than the forty columns of this terminal"), 70, None),
        (KeyboardInterrupt(), 130, "warning: interrupted; no file is half-written\n"),
        (typer.Exit(1), 1, ""),
        (NobodyReads(), 141, ""),
        (BrokenPipeError(), 70, f"internal error: BrokenPipeError: \n{BUG}"),
        (SystemExit(0), 70, f"internal error: SystemExit: 0\n{BUG}"),
        (GeneratorExit(), 70, f"internal error: GeneratorExit: \n{BUG}"),
        (StopIteration(3), 70, f"internal error: StopIteration: 3\n{BUG}"),
    ],
    ids=repr,
)
def test_exit_codes(error: BaseException, code: int, message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())  # closed where a pipe breaks
    found = run(failing(error))
    assert found[0] == code
    assert found[1] == message or message is None
    assert "Traceback" not in found[1]


@pytest.mark.parametrize("error", [DataError("x.npy", "is empty", hint="fill it"), ValueError("[a] bug")], ids=repr)
def test_debug_shows_where(error: Exception) -> None:
    _, err = run(failing(error), debug=True)
    assert err.startswith("Traceback (most recent call last):")
    assert "in work\n    raise error" in err
    assert err.count("hint: ") == 1


def test_termination() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(lambda: os.kill(os.getpid(), signal.SIGTERM)) == (143, "warning: terminated; no file is half-written\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_termination_has_a_document() -> None:
    out, nowhere = Console(file=io.StringIO()), Console(file=io.StringIO())
    streams = Streams(out=out, err=nowhere, mode="json", quiet=False)
    with pytest.raises(typer.Exit) as exit, guarded(streams, debug=False, again="ntt prune model.py --resume"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert exit.value.exit_code == 143
    assert json.loads(out.file.getvalue())["error"] == {  # type: ignore[attr-defined]
        "where": "SIGTERM",
        "what": "terminated; no file is half-written",
        "hint": "go on with: ntt prune model.py --resume",
        "exit_code": 143,
    }


def test_termination_is_not_taken_for_an_error_of_user_code() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("`except Exception` caught it")

    assert run(work)[0] == 143


@pytest.mark.parametrize("error", [RuntimeError("mode stack"), ModelError("net.py", "fails", hint="mend it")], ids=repr)
def test_an_error_of_interrupted_code_is_taken_for_the_interruption(error: Exception) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise error

    assert run(work) == (143, "warning: terminated; no file is half-written\n")


def test_an_exit_of_interrupted_code_is_taken_for_the_interruption() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise SystemExit(0)

    assert run(work) == (143, "warning: terminated; no file is half-written\n")


def test_typers_abort_keeps_its_meaning() -> None:
    with pytest.raises(typer.Abort):
        run(failing(typer.Abort()))


def test_a_state_that_cannot_be_saved_is_told() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise OutputError("x", "cannot be written", hint="free some space")

    assert run(work) == (2, "error: x: cannot be written\nhint: free some space\n")


def test_torchs_own_future_warnings_are_not_shown() -> None:
    def warn() -> None:
        warnings.warn_explicit("deprecated", FutureWarning, "x.py", 1, module="torch.jit")

    assert run(warn)[0] == 0
    # In these tests a warning that is shown is an error.
    assert run(lambda: warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="mine"))[0] == 70
    assert run(warn, debug=True)[0] == 70


def test_stray_prints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    streams = make_streams(as_json=False, quiet=True)
    assert call(streams, lambda _: print("stray") or 3) == 3  # noqa: T201
    assert capsys.readouterr() == ("", "stray\n")


@pytest.mark.usefixtures("folder")
def test_a_bug(ntt: Ntt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "prepare", lambda *_: {}["missing"])
    result = ntt("prune", MODEL, "--sparsity", "0.5")
    assert (result.code, result.out, result.err) == (70, "", f"internal error: KeyError: 'missing'\n{BUG}")
    result = ntt("prune", MODEL, "--sparsity", "0.5", "--debug")
    assert result.code == 70
    assert "Traceback" in result.err

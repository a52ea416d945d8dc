from __future__ import annotations

import errno
import io
import json
import re
import sys

import pytest
from rich.table import Table
from rich.text import Text

from ntt_cli.cli.streams import NobodyReads, make_streams
from ntt_cli.documents import Document
from ntt_cli.errors import OutputError


class Report(Document):
    document = "test"

    output: str = "x.safetensors"
    accuracy: float = 0.5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_one_form_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json, quiet in ((False, False), (True, False), (False, True), (True, True)):
        make_streams(as_json=as_json, quiet=quiet).result(Report(), human="for people", quiet="x.safetensors")
    out, err = capsys.readouterr()
    out = re.sub(r'"seconds": [\d.]+', '"seconds": 0.0', out)
    heading = '"schema_version": 1,\n  "document": "test",\n  "ntt_version": "0.1.0",\n  "seconds": 0.0'
    document = f'{{\n  {heading},\n  "output": "x.safetensors",\n  "accuracy": 0.5\n}}\n'
    assert (out, err) == (f"for people\n{document}x.safetensors\n{document}", "")


def test_one_document_whatever_happens_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    streams = make_streams(as_json=True, quiet=False)
    streams.result(Report(), human="", quiet="")
    streams.ended("x", "is wrong", hint="mend it", exit_code=2)
    assert json.loads(capsys.readouterr().out)["document"] == "test"
    make_streams(as_json=False, quiet=False).ended("x", "is wrong", hint="mend it", exit_code=2)
    assert capsys.readouterr() == ("", "")


def test_an_error_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    make_streams(as_json=True, quiet=False).ended("x", "is wrong", hint="mend it", exit_code=2)


def test_words_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 60 + "end"
    talking, silent = make_streams(as_json=False, quiet=False), make_streams(as_json=True, quiet=True)
    for both in (talking, silent):
        both.say(f"[advice] {long}")
        both.warn("[warning]")
        both.fail("[failure]")
    ending = "warning: [warning]\nfailed: [failure]\n"
    assert capsys.readouterr() == ("", f"[advice] {long}\n{ending}{ending}")


def test_control_characters_of_others_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x9b1m\rb\u202ec\udcff é"
    streams = make_streams(as_json=False, quiet=False)
    table = Table(box=None, padding=0, show_header=False)
    table.add_row(Text(name))
    streams.result(Report(), human=table, quiet="")
    streams.error(OutputError(name, name, hint=name))
    out, err = capsys.readouterr()
    assert "a\\x1b[2J" in out  # and the rest is cut to the width of the name
    assert err.count("a\\x1b[2J\\x9b1m") == 3
    for text in (out, err):
        assert text.replace("\n", "").isprintable()


def test_a_pipe_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    table.add_column("layer", no_wrap=True)
    table.add_row("n" * 300)
    make_streams(as_json=False, quiet=False).result(Report(), human=table, quiet="")
    assert "n" * 300 in capsys.readouterr().out


@pytest.mark.parametrize("no_color", [None, "1"])
def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch, no_color: str | None) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    make_streams(as_json=False, quiet=False).warn("slow")
    assert ("\x1b[" in sys.stderr.getvalue() and "33m" in sys.stderr.getvalue()) == (no_color is None)
    assert "slow" in sys.stderr.getvalue()


@pytest.mark.parametrize(("as_json", "quiet"), [(True, False), (False, True), (False, False)])
def test_a_result_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, as_json: bool, quiet: bool) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OutputError, match="stdout: cannot be written to: No space left on device") as caught:
        make_streams(as_json=as_json, quiet=quiet).result(Report(), human="for people", quiet="x")
    assert caught.value.exit_code == 2


def test_a_reader_who_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    with pytest.raises(NobodyReads):
        make_streams(as_json=True, quiet=False).result(Report(), human="for people", quiet="x")


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    streams = make_streams(as_json=False, quiet=False)
    streams.warn("nobody hears this")
    streams.err.file.close()
    assert out.getvalue() == ""

"""`-h` and `--help`, at the widths that terminals have."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from ntt_cli.cli.app import COMMANDS
from tests.cli.conftest import Ntt

WITH_MANY = ("prune", "finetune", "evaluate", "compare", "export", "bench")
every_command = pytest.mark.parametrize("command", COMMANDS)


def module(command: str) -> object:
    return import_module(f"ntt_cli.cli.{command}")


def options_in(text: str) -> list[str]:
    return re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("width", [40, 60, 100, 300])
@pytest.mark.parametrize("option", ["-h", "--help"])
@every_command
def test_no_line_is_wider_than_the_terminal(
    ntt: Ntt, monkeypatch: pytest.MonkeyPatch, command: str, option: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = ntt(command, option)
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if not line.startswith("  ntt ")]  # examples are to be copied
    assert max(map(len, lines)) <= min(width, 100)
    assert not [line for line in lines if line != line.rstrip()]
    assert "<bool>" not in result.out


@every_command
def test_a_narrow_terminal_shows_the_same_words(ntt: Ntt, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    found = []
    for width in ("40", "100"):
        monkeypatch.setenv("COLUMNS", width)
        found.append(ntt(command, "--help").out.split())
    assert found[0] == found[1]


@pytest.mark.parametrize("command", WITH_MANY)
def test_the_short_help_shows_what_is_used_most(ntt: Ntt, command: str) -> None:
    short, whole = ntt(command, "-h").out, ntt(command, "--help").out
    most_used = [f"--{name.replace('_', '-')}" for name in module(command).MOST_USED]  # type: ignore[attr-defined]
    assert options_in(short) == most_used
    assert set(most_used) < set(options_in(whole))
    assert short.endswith(f"\nntt {command} --help shows all {len(options_in(whole))} options.\n")
    assert len(short.splitlines()) < min(40, len(whole.splitlines()) / 2)
    examples = module(command).EXAMPLES  # type: ignore[attr-defined]
    assert [example in short for example in examples] == [True] + [False] * (len(examples) - 1)
    assert all(example in whole for example in examples)


def test_what_is_used_most_comes_first_in_its_section(ntt: Ntt) -> None:
    whole = ntt("prune", "--help").out
    heads = {"Arguments", "Model", "Data", "Method", "Machine", "Output", "Options of ntt", "Options"}
    assert {line for line in whole.splitlines() if line in heads} == heads
    assert options_in(whole.split("\nModel\n")[1])[:2] == ["--sparsity", "--weights"]
    assert options_in(whole.split("\nOptions of ntt\n")[1])[0] == "--steps"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_of_ntt_itself(ntt: Ntt, option: str) -> None:
    result = ntt(option)
    assert re.findall(r"^  ([a-z]+) ", result.out.split("\nCommands\n")[1], re.MULTILINE) == list(COMMANDS)
    assert ("--install-completion" in result.out) == (option == "--help")

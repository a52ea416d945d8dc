from __future__ import annotations

from pathlib import Path

import pytest

from ntt_cli import __version__
from ntt_cli.cli.options import flag
from ntt_cli.config import BEHIND_METHOD, COMMANDS, NAMED_DATA
from ntt_cli.data.sources.named import LAYOUTS
from tests.cli.conftest import MODEL, Ntt

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_an_option(ntt: Ntt, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = ntt(command, "--help")
    assert (result.code, result.err) == (0, "")
    for name in COMMANDS[command].model_fields:
        shown = name.replace("_", "-") if name in BEHIND_METHOD else flag(name, COMMANDS[command].arguments)
        assert shown in result.out
    for name in ("--config", "--json", "--quiet", "--debug", "Examples:", f"ntt {command} "):
        assert name in result.out


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_every_command_is_listed(ntt: Ntt, arguments: list[str]) -> None:
    result = ntt(*arguments)
    assert (result.code, result.err) == (0, "")
    for command in (*COMMANDS, "inspect", "init"):
        assert f" {command} " in result.out


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(ntt: Ntt, option: str) -> None:
    assert ntt(option).out == f"ntt {__version__}\n"


@pytest.mark.parametrize("command", [[], ["prune"], ["verify"]])
def test_help_is_a_word_too(ntt: Ntt, command: list[str]) -> None:
    result = ntt("help", *command)
    assert (result.code, result.err) == (0, "")
    assert result.out == ntt(*command, "--help").out
    assert f"Usage: {' '.join(['ntt', *command])} " in result.out


BAD = [
    ["help", "foo"],
    ["foo"],
    ["-x"],
    ["prune"],
    ["prune", "--steps"],
    ["prune", MODEL, "b.py"],
    ["prune", MODEL, "-s", "0.9q"],
    ["verify"],
    ["verify", "--json=3"],
    ["inspect", "a", "b"],
    ["init", "--from"],
    ["compare", MODEL, "--jobs", "0"],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_every_bad_line_gets_an_error_and_a_hint(ntt: Ntt, words: list[str]) -> None:
    result = ntt(*words)
    error, hint = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert (error.split(": ")[0], hint.split(": ")[0]) == ("error", "hint")


def sparsity(ntt: Ntt, *arguments: str) -> float:
    result = ntt("prune", *arguments, "--method", "random", "--limit", "4", "--force", "--json")
    assert result.code == 0, result.err
    return round(float(result.document["sparsity"]), 3)


def test_the_command_line_goes_before_the_file_and_that_before_the_default(ntt: Ntt) -> None:
    Path("ntt.toml").write_text("sparsity = 0.5\noutput = 'filed.safetensors'\n[prune]\nexclude = ['5.*']\nseed = 3\n")
    assert sparsity(ntt, MODEL, "--config", "ntt.toml") == 0.5
    assert Path("filed.safetensors").is_file()
    assert sparsity(ntt, MODEL, "--config", "ntt.toml", "--sparsity", "0.8", "-o", "given.safetensors") == 0.8
    report = ntt("inspect", "given.safetensors", "--json").document["record"]
    assert (report["config"]["exclude"], report["config"]["seed"], report["config"]["batch_size"]) == (["5.*"], 3, 64)


def test_an_option_at_its_default_goes_before_the_file_too(ntt: Ntt) -> None:
    Path("ntt.toml").write_text("sparsity = 0.5\nseed = 3\n")
    sparsity(ntt, MODEL, "--config", "ntt.toml", "--seed", "0")
    assert ntt("inspect", "sparse.safetensors", "--json").document["record"]["config"]["seed"] == 0


def test_the_file_may_name_the_model(ntt: Ntt) -> None:
    Path("ntt.toml").write_text(f"model = '{MODEL}'\nsparsity = 0.25\n")
    assert sparsity(ntt, "--config", "ntt.toml") == 0.25


@pytest.mark.parametrize(
    ("filed", "given", "steps"), [("epochs = 9", "--steps=3", 3), ("steps = 9", "--epochs=0.5", 1)]
)
def test_the_length_given_goes_before_the_other_length_in_the_file(
    ntt: Ntt, filed: str, given: str, steps: int
) -> None:
    Path("ntt.toml").write_text(f"{filed}\n")
    result = ntt("prune", MODEL, "--config", "ntt.toml", "-s", "0.5", "--limit", "4", given, "--json")
    assert (result.code, result.document["steps"]) == (0, steps)


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("sparsty = 0.5", "sparsty is not an option of ntt", "did you mean sparsity?"),
        ("sparsity = 'high'", "sparsity = high: is not a number", "0.95 keeps 5%"),
        ("sparsity = 2", "sparsity = 2: should be less than 1", "0.95 keeps 5%"),
        ("sparsity = 90", "sparsity = 90: should be less than 1", "did you mean 0.9?"),
        ("sparsity = 99.5", "sparsity = 99.5: should be less than 1", "did you mean 0.995?"),
        ("sparsity = '5%'", "sparsity = 5%: is not a number", "did you mean 0.05?"),
        ("sparsity = '95x'", "sparsity = 95x: is not a number", "0.95 keeps 5%"),
        ("sparsity = 100", "sparsity = 100: should be less than 1", "0.95 keeps 5%"),
        ("sparsity = 0.5\nsteps = 2.5", "steps = 2.5: is not a whole number or auto", "Transfer steps"),
        ("sparsity = 0.5\nmethod = 'magic'", "method = magic: is not one of ntt, asr", "ntt learns"),
        ("sparsity = 0.5\nexclude = 'fc*'", "exclude = 'fc*': should be a list", "pattern"),
        ("sparsity = 0.5\n[prune]\nmethod = 'random'\nsteps = 5", "steps = 5: method random does not read it", "leave"),
        ("sparsity = []", "sparsity = []: is not a number", "0.95"),
        ("sparsity = [0.5]", "sparsity = [0.5]: is not a number", "0.95"),
        ("sparsity = true", "sparsity = true: is not a number", "0.95"),
        ("sparsity = 0.5\nseed = false", "seed = false: is not a whole number", "Seed"),
        ("sparsity = 0.5\nsteps = true", "steps = true: is not a whole number", "Transfer steps"),
        ("sparsity = 0.5\nforce = 1", "force = 1: is neither true nor false", "Overwrite"),
        ("sparsity = 0.5\ngrayscale = 0.0", "grayscale = 0.0: is neither true nor false", "channel"),
        ("sparsity = 0.5\nallow_mismatch = true", "allow_mismatch = true: it is read with --resume alone", "leave"),
        ("sparsity = 0.5\ndata = ['a', 'b c', true]", "data = [a, 'b c', true]: is not text", "digits"),
        ("sparsity = 0.5\ndata = 3", "data = 3: is not text", "digits"),
        ("sparsity = ", "is not valid TOML", "mend it"),
    ],
)
def test_files_that_are_wrong(ntt: Ntt, text: str, error: str, hint: str) -> None:
    Path("ntt.toml").write_text(text)
    result = ntt("prune", MODEL, "--config", "ntt.toml")
    assert (result.code, result.out) == (2, "")
    first, second = result.err.splitlines()
    assert first.startswith("error: ntt.toml: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second
    assert not Path("sparse.safetensors").exists()


def test_a_wrong_option_is_not_blamed_on_the_file(ntt: Ntt) -> None:
    Path("ntt.toml").write_text("sparsity = 0.5")
    assert ntt("prune", MODEL, "--config", "ntt.toml", "-s", "3").err.startswith("error: --sparsity 3: should be")


@pytest.mark.parametrize(
    ("typed", "words"), [("--method ntk", ["ntk-sap"]), ("--data cif", ["cifar10", "cifar100"]), ("-d di", ["digits"])]
)
def test_words_of_an_option_can_be_completed(
    ntt: Ntt, monkeypatch: pytest.MonkeyPatch, typed: str, words: list[str]
) -> None:
    monkeypatch.setenv("_NTT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"ntt prune {typed}")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert ntt().out.split() == words


def test_the_named_data_are_those_that_are_read() -> None:
    assert ("digits", *LAYOUTS) == NAMED_DATA

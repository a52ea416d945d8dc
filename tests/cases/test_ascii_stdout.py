"""Terminals and pipes that take ASCII alone (issue 28, C2), in a process of its own: there is no other way to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_process import shell
from tests.small_networks import write_network

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}


@pytest.mark.usefixtures("folder")
def test_a_result_is_printed_whatever_the_encoding() -> None:
    result = shell(
        f"ntt prune {write_network('plain')} -s 0.8 --method magnitude --limit 8 -o \u00e9.safetensors", **ASCII
    )
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)
    assert "\nfc1.weight  16?64  " in result.stdout
    assert Path("\u00e9.safetensors").is_file()
    name = shell("ntt report \u00e9.safetensors -q", **ASCII)
    assert (name.returncode, name.stdout) == (0, "\u00e9.report.html\n"), name.stderr
    document = shell("ntt inspect \u00e9.safetensors --json", **ASCII).stdout
    assert document.isascii()
    assert json.loads(document)["file"] == "\u00e9.safetensors"


@pytest.mark.parametrize("command", ["", "prune", "compare"])
def test_help_too(command: str) -> None:
    result = shell(f"ntt {command} --help", **ASCII)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage: ntt" in result.stdout

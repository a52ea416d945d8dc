"""Names that no file or record can hold: of tensors (`cases/metadata-name`), and of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import MODEL as DIGITS
from tests.cli.conftest import Ntt, content

MODEL = """
import torch
from torch import nn
class N(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 16)
        self.b = nn.Linear(16, 10)
        {register}
    def forward(self, x):
        return self.b(torch.relu(self.a(x.flatten(1))) @ getattr(self, NAME))
def build_model():
    return N()
DATA = "digits"
"""
KINDS = ("register_parameter(NAME, nn.Parameter(torch.randn(16, 16)))", "register_buffer(NAME, torch.randn(16, 16))")


@pytest.mark.parametrize("name", ["__metadata__", "half\\ud800"])
@pytest.mark.parametrize("kind", KINDS, ids=["parameter", "buffer"])
def test_a_name_that_no_file_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ntt: Ntt, name: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL.replace("{register}", f"self.{kind}") + f'NAME = "{name}"\n')
    for command in (["prune", "net.py", "-s", "0.5", "--method", "magnitude"], ["finetune", "net.py", "--epochs", "1"]):
        said = ntt(*command, "--limit", "40")
        assert said.code == 2, said.err
        assert f"its state dict holds {name}, which no safetensors file does" in said.err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["net.py"]


NO_TEXT = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", f"{NO_TEXT}/{DIGITS}", "-s", "0.5"],
        ["prune", DIGITS, "-s", "0.5", "-o", f"{NO_TEXT}.safetensors"],
        ["prune", DIGITS, "-s", "0.5", "-d", f"{NO_TEXT}.npz"],
        ["prune", DIGITS, "-s", "0.5", "-d", f"{NO_TEXT}.py:build_data"],
        ["prune", DIGITS, "-s", "0.5", "--weights", f"{NO_TEXT}.safetensors"],
        ["prune", DIGITS, "-s", "0.5", "-a", f"name={NO_TEXT}"],
        ["finetune", DIGITS, "-o", f"{NO_TEXT}.safetensors"],
        ["init", f"{NO_TEXT}/new.py"],
    ],
    ids=str,
)
def test_a_file_name_that_is_no_text_is_refused_before_any_work(folder: Path, ntt: Ntt, arguments: list[str]) -> None:
    Path(NO_TEXT).mkdir()
    shutil.copy(DIGITS, NO_TEXT)
    Path(f"{NO_TEXT}.py").write_text("def build_data(): pass\n")
    np.savez(f"{NO_TEXT}.npz", x=np.zeros((4, 64), np.float32))
    before = content(folder)
    said = ntt(*arguments)
    assert said.code == 2, said.err
    assert "caf\\udce9" in said.err
    assert "has bytes in its name that are no text in this locale\nhint: rename it; " in said.err
    assert content(folder) == before


def test_a_working_folder_whose_name_is_no_text_does_not_matter(
    folder: Path, ntt: Ntt, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(NO_TEXT).mkdir()
    shutil.copy(DIGITS, NO_TEXT)
    monkeypatch.chdir(folder / NO_TEXT)
    for command in (["prune", DIGITS, "-s", "0.5", "--method", "magnitude"], ["finetune", DIGITS, "--epochs", "1"]):
        said = ntt(*command, "--limit", "40")
        assert said.code == 0, said.err


def test_a_file_name_that_looks_like_markup_is_shown_as_it_is(folder: Path, ntt: Ntt) -> None:
    Path("x[").mkdir()
    data = "x[/b] :smile:[red].npz"
    np.savez(data, x=np.zeros((40, 64), np.float32), y=np.arange(40) % 10)
    assert ntt("finetune", DIGITS, "-d", data, "--epochs", "1").code == 0
    said = ntt("evaluate", DIGITS, "-d", data, "-c", "dense.safetensors")
    assert said.code == 0, said.err
    assert f"40 of {data}" in said.out

"""Names of tensors that no safetensors file can hold (`cases/metadata-name`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ntt

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

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from ntt_cli.config import DataOptions
from ntt_cli.workflows.prepare import Inputs, open_inputs
from tests.workflows.parts import CPU, loaded


@pytest.fixture(scope="session", autouse=True)
def _forward_mode() -> None:
    """Load torch's forward mode, which warns of its own use of `torch.jit`; the command line ignores that too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def digits(folder: Path) -> Inputs:
    options = DataOptions(data="digits")
    return open_inputs(options, loaded("plain"), split="train", device=CPU, known=None, on_event=lambda _: None)

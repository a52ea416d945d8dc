"""A checkpoint's bytes do not depend on how paths were typed, and it records what the defaults settled on."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ntt_cli import __version__
from ntt_cli.comparison import compare
from ntt_cli.config import CompareConfig, FinetuneConfig, PruneConfig
from ntt_cli.files.metadata import CheckpointRecord, read_header
from ntt_cli.pruning import prune
from ntt_cli.runtime.events import Event, Noted, TransferStarted
from ntt_cli.runtime.signals import Interrupted, Stop
from ntt_cli.training import finetune

MODEL = """import helper
from torch import nn
DATA = "images/"
def build_model():
    return helper.build()
"""
HELPER = """from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets").mkdir()
    Path("nets/model.py").write_text(MODEL)
    Path("nets/helper.py").write_text(HELPER)


def spellings() -> list[str]:
    inside = os.path.relpath("nets/model.py", ".")
    return [inside, f"./{inside}", str(Path(inside).resolve()), f"{inside}:build_model", "nets/../nets/model.py"]


def record(path: str) -> CheckpointRecord:
    found = read_header(Path(path)).record
    assert isinstance(found, CheckpointRecord)
    return found


def pruned(model: str, **values: Any) -> str:
    options = {"data": "digits", "sparsity": 0.5, "steps": 4, "limit": 40, "device": "cpu", "force": True}
    prune.run(PruneConfig(model=model, **(options | values)), lambda _: None)
    return hashlib.sha256(Path("sparse.safetensors").read_bytes()).hexdigest()


def tuned(model: str, checkpoint: str) -> str:
    options: dict[str, Any] = {"data": "digits", "epochs": 1, "limit": 100, "device": "cpu", "force": True}
    finetune.run(FinetuneConfig(model=model, checkpoint=checkpoint, **options), lambda _: None)
    return hashlib.sha256(Path("tuned.safetensors").read_bytes()).hexdigest()


def test_bytes_do_not_depend_on_how_a_path_was_typed() -> None:
    assert len({pruned(model) for model in spellings()}) == 1
    there = str(Path("sparse.safetensors").resolve())
    assert tuned("nets/model.py", "sparse.safetensors") == tuned(spellings()[2], there)


def test_what_the_defaults_settled_on_is_recorded() -> None:
    pruned("nets/model.py")
    found = record("sparse.safetensors")
    assert found.versions == {"ntt": __version__, "torch": torch.__version__}
    assert (found.config["model"], found.config["data"], found.config["steps"]) == ("model.py", "digits", 4)
    tuned("nets/model.py", "sparse.safetensors")
    found = record("tuned.safetensors")
    assert found.config["learning_rate"] > 0
    assert found.config["checkpoint"] == "sparse.safetensors"
    assert found.model.sha256 == hashlib.sha256(MODEL.encode()).hexdigest()


def test_a_run_goes_on_under_another_spelling_of_its_paths() -> None:
    whole = pruned("nets/model.py", output="sparse.safetensors")
    Path("sparse.safetensors").unlink()
    Path("sparse.report.safetensors").unlink()
    stop, told = Stop(), list[str]()
    options: dict[str, Any] = {"data": "digits", "sparsity": 0.5, "steps": 4, "limit": 40, "device": "cpu"}

    def interrupt(event: Event) -> None:
        if isinstance(event, TransferStarted):
            stop.asked = signal.SIGTERM

    with pytest.raises(Interrupted):
        prune.run(PruneConfig(model="nets/model.py", **options), interrupt, stop)

    def tell(event: Event) -> None:
        if isinstance(event, Noted) and "going on" in event.message:
            told.append(event.message)

    prune.run(PruneConfig(model=spellings()[2], **options, resume=True), tell)
    assert len(told) == 1
    assert hashlib.sha256(Path("sparse.safetensors").read_bytes()).hexdigest() == whole


def test_a_comparison_goes_on_under_another_spelling() -> None:
    options: dict[str, Any] = {"data": "digits", "methods": ("magnitude",), "limit": 40, "device": "cpu"}
    first = compare.prepare(CompareConfig(model="nets/model.py", **options), lambda _: None, write=True)
    again = compare.prepare(CompareConfig(model=spellings()[2], **options), lambda _: None, write=True)
    assert first == again

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ntt_cli.cli.app import main
from ntt_cli.documents import Heading

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODEL = "digits_mlp.py"


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it wrote to the two streams."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def report(self) -> Any:
        """The document without its heading: what the function of the same name returns."""
        return {name: value for name, value in self.document.items() if name not in Heading.model_fields}


Ntt = Callable[..., Result]


@pytest.fixture
def ntt(capsys: pytest.CaptureFixture[str]) -> Ntt:
    """Run the command line in this process, where torch is loaded already."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Result(exit.value.code, out, err)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `digits_mlp.py` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    shutil.copy(SAMPLES / MODEL, MODEL)
    return tmp_path


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse checkpoint, one tuned from it and a dense one, each with its report."""
    made = tmp_path_factory.mktemp("made")
    shutil.copy(SAMPLES / MODEL, made)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for arguments in (
            ["prune", MODEL, "--sparsity", "0.9", "--steps", "10", "--limit", "20"],
            ["finetune", MODEL, "--checkpoint", "sparse.safetensors", "--epochs", "1"],
            ["finetune", MODEL, "--epochs", "1"],
        ):
            with pytest.raises(SystemExit) as exit:
                main([*arguments, "--quiet"])
            assert exit.value.code == 0
    return made


@pytest.fixture
def checkpoints(folder: Path, _made: Path) -> Path:
    """The working folder with `sparse`, `tuned` and `dense.safetensors` in it."""
    for path in _made.glob("*.safetensors"):
        shutil.copy(path, folder)
    return folder


def content(folder: Path = Path()) -> Mapping[Path, bytes]:
    """Every file below the folder, to tell whether anything was written."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ntt_cli.config import ModelOptions
from ntt_cli.errors import OutputError
from ntt_cli.files import template as init
from ntt_cli.networks.loading.models import load_model


def refusal(path: Path, *, force: bool = False) -> OutputError:
    with pytest.raises(OutputError) as caught:
        init.run(path, force=force)
    assert caught.value.exit_code == 2
    return caught.value


def test_the_written_file_is_a_model(tmp_path: Path) -> None:
    path = Path(init.run(tmp_path / "model.py", force=False).output)
    assert path == tmp_path / "model.py"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.py"]

    loaded = load_model(ModelOptions(model=str(path), model_arg=("classes=3",)), seed=0)
    assert loaded.data == "digits"
    assert loaded.input_shape == (1, 8, 8)
    with torch.no_grad():
        logits = loaded.module(torch.randn(5, 1, 8, 8))
    assert logits.shape == (5, 3)
    assert (logits < 0).any()


@pytest.mark.parametrize(
    ("name", "shown"), [("net.py", "net.py"), ("my net.py", "'my net.py'"), ('a"""b.py', '\'a"""b.py\'')]
)
def test_the_commands_name_the_written_file(tmp_path: Path, name: str, shown: str) -> None:
    path = Path(init.run(tmp_path / name, force=False).output)
    text = path.read_text()
    assert "model.py" not in text
    assert [f"ntt {command} {shown}" in text for command in ("prune", "finetune", "evaluate")] == [True] * 3
    load_model(ModelOptions(model=str(path)), seed=0)


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("mine")
    error = refusal(path)
    assert "exists already" in str(error)
    assert "--force" in error.hint
    assert path.read_text() == "mine"
    init.run(path, force=True)
    assert "def build_model" in path.read_text()


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_refused(tmp_path: Path, force: bool) -> None:
    error = refusal(tmp_path, force=force)
    assert "is a folder" in str(error)
    assert str(tmp_path / "model.py") in error.hint


def test_only_python_files(tmp_path: Path) -> None:
    error = refusal(tmp_path / "model")
    assert "is not a .py file" in str(error)
    assert error.hint == f"name it {tmp_path / 'model.py'}"


def test_missing_folder(tmp_path: Path) -> None:
    assert "mkdir" in refusal(tmp_path / "nets" / "model.py").hint

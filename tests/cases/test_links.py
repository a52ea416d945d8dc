"""Links, and other things that somebody planted where ntt writes (`cases/lock-symlink`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntt_cli.cli.app import main

MODEL = """
from torch import nn
DATA = "digits"
def build_model(width=32):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
PRECIOUS = "forty thousand words"
PRUNE = "prune mlp.py -s 0.9 --method magnitude --force -q".split()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mlp.py").write_text(MODEL)
    Path("thesis.tex").write_text(PRECIOUS)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "hint: " in said
    return said


def test_a_lock_that_is_a_link(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".sparse.safetensors.lock").symlink_to("thesis.tex")
    said = refused(PRUNE, capsys)
    assert "error: .sparse.safetensors.lock: is in the place of a lock, and is none: a link" in said
    assert Path("thesis.tex").read_text() == PRECIOUS
    assert {path.name for path in Path().iterdir()} == {"mlp.py", "thesis.tex", ".sparse.safetensors.lock"}


@pytest.mark.parametrize("target", ["thesis.tex", "nothing.safetensors"])
@pytest.mark.parametrize("name", ["sparse.safetensors", "sparse.report.safetensors", "sparse.resume.safetensors"])
def test_an_output_that_is_a_link(name: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).symlink_to(target)
    said = refused(PRUNE, capsys)
    assert f"error: {name}: is a link to {target}" in said
    assert f"hint: name {target} itself, or remove the link" in said
    assert Path(name).readlink() == Path(target)
    assert Path("thesis.tex").read_text() == PRECIOUS


def test_a_model_file_to_write_that_is_a_link(capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("thesis.tex", "nothing.py"):
        Path("model.py").symlink_to(target)
        assert f"error: model.py: is a link to {target}" in refused(["init", "model.py", "--force"], capsys)
        Path("model.py").unlink()
    assert Path("thesis.tex").read_text() == PRECIOUS


def test_a_page_and_its_pictures_that_are_links(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(PRUNE)
    for name in ("sparse.report.html", "sparse.report-layers.png"):
        Path(name).symlink_to("thesis.tex")
        said = refused(["report", "sparse.safetensors", "--png", "--force"], capsys)
        assert f"error: {name}: is a link to thesis.tex" in said
        Path(name).unlink()
    assert Path("thesis.tex").read_text() == PRECIOUS

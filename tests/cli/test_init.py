from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("folder")


def test_the_first_minutes_of_a_user(ntt: Ntt) -> None:
    result = ntt("init")
    assert (result.code, result.out, result.err) == (0, "model.py\n", "next: ntt prune model.py --sparsity 0.9\n")
    assert ntt("prune", "model.py", "--sparsity", "0.9", "--steps", "5", "--limit", "8", "-q").code == 0
    assert ntt("finetune", "model.py", "-c", "sparse.safetensors", "--epochs", "1", "--limit", "200", "-q").code == 0
    result = ntt("evaluate", "model.py", "-c", "tuned.safetensors", "--json")
    assert (result.code, result.document["samples"]) == (0, 359)
    assert result.document["density"] == pytest.approx(0.1, abs=1e-3)


def test_an_existing_file_is_kept(ntt: Ntt) -> None:
    Path("my net.py").write_text("mine")
    assert ntt("init", "my net.py").code == 2
    assert Path("my net.py").read_text() == "mine"
    assert ntt("init", "my net.py", "--force").err == "next: ntt prune 'my net.py' --sparsity 0.9\n"
    assert "def build_model" in Path("my net.py").read_text()


def test_a_script_gets_the_path_alone_or_json(ntt: Ntt) -> None:
    result = ntt("init", "quiet.py", "-q")
    assert (result.code, result.out, result.err) == (0, "quiet.py\n", "")
    result = ntt("init", "json.py", "--json")
    assert (result.code, result.report) == (0, {"output": "json.py"})


def test_a_traceback_with_debug_alone(ntt: Ntt) -> None:
    Path("model.py").touch()
    assert "Traceback" not in ntt("init").err
    result = ntt("init", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "error: model.py: exists already" in result.err

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

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


def test_a_network_of_torchvision(ntt: Ntt) -> None:
    """Beside torchvision's own."""
    result = ntt("init", "--from", "torchvision:squeezenet1_1")
    assert (result.code, result.out) == (0, "model.py\n")
    assert result.err == "next: ntt prune model.py --sparsity 0.9 --data IMAGES --weights WEIGHTS\n"
    own = torchvision.models.squeezenet1_1(weights=None).state_dict()
    built = runpy.run_path("model.py")["build_model"]()
    assert {name: value.shape for name, value in built.state_dict().items()} == {
        name: value.shape for name, value in own.items()
    }
    done = ntt("prune", "model.py", "-s", "0.9", "--method", "magnitude", "--model-arg", "num_classes=10", "-q")
    assert done.code == 0, done.err


def test_the_names_and_shapes_of_weights(ntt: Ntt) -> None:
    tensors = {
        "fc.weight": torch.zeros(3, 4),
        "fc.bias": torch.zeros(3, dtype=torch.float16),
        "model.pyr": torch.ones(2),
    }
    hostile = "a\nimport os\r\x0c\u2028print(1)"
    save_file(tensors | {hostile: torch.zeros(1)}, "w.safetensors")
    result = ntt("init", "net.py", "--from", "w.safetensors")
    assert (result.code, result.out) == (0, "net.py\n")
    written = (
        "next: write build_model() in it, then ntt prune net.py --sparsity 0.9 --data INPUTS --weights w.safetensors\n"
    )
    assert result.err == written
    text = Path("net.py").read_text()
    for line in ("fc.weight F32 [3, 4]", "fc.bias F16 [3]", "model.pyr F32 [2]", f"{hostile!r} F32 [1]"):
        assert f"    # {line}\n" in text
    kinds = [type(node) for node in ast.parse(text).body]
    assert kinds == [ast.Expr, ast.ImportFrom, ast.ImportFrom, ast.FunctionDef]
    assert "build_model() is yet to be written" in ntt("prune", "net.py", "-s", "0.9").err


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "torchvision:resnet19",
            "error: torchvision:resnet19: torchvision has no such classifier\nhint: the nearest are",
        ),
        (
            "timm:resnet18",
            "error: --from timm:resnet18: is neither torchvision:NAME nor a .safetensors file\nhint: other",
        ),
        ("missing.safetensors", "error: missing.safetensors: does not exist\nhint: "),
    ],
)
def test_what_no_file_can_be_written_from(ntt: Ntt, source: str, error: str) -> None:
    result = ntt("init", "--from", source)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(error)
    assert not Path("model.py").exists()


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

"""Networks of timm, by name, where timm is installed: one small network a family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ntt_cli.config import EvaluateConfig, FinetuneConfig, PruneConfig
from ntt_cli.evaluation import evaluate
from ntt_cli.pruning import prune
from ntt_cli.training import finetune

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("folder")

NAMES = [
    "lcnet_035",
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "test_vit3",
    "tinynet_e",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_command(name: str) -> None:
    size, classes = {"input_shape": "3x64x64"}, ("num_classes=4",)
    fixed = {"img_size": 64} if "vit" in name else {}
    arguments = (*classes, *(f"{key}={value}" for key, value in fixed.items()))
    common: dict[str, Any] = {"model": f"timm:{name}", "model_arg": arguments, "device": "cpu", "batch_size": 4}
    pruning = PruneConfig(**common, **size, data="noise:8", sparsity=0.5, steps=1, output="s.safetensors")
    report = prune.run(pruning, lambda _: None)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    network = timm.create_model(name, num_classes=4, **fixed)
    network.load_state_dict(load_file("s.safetensors"))
    assert {layer.name for layer in report.layers} <= {name for name, _ in network.named_parameters()}
    torch.save({"x": torch.rand(8, 3, 64, 64), "y": torch.arange(8) % 4}, "data.pt")
    Path("data.py").write_text(
        "import torch\ndef build_data():\n    data = torch.load('data.pt')\n    return data['x'], data['y']\n"
    )
    tuning = FinetuneConfig(
        **common,
        data="data.py:build_data",
        checkpoint="s.safetensors",
        epochs=1,
        output="t.safetensors",
        mean="0",
        std="1",
    )
    finetune.run(tuning, lambda _: None)
    measured = EvaluateConfig(**common, data="data.py:build_data", checkpoint="t.safetensors")
    found = evaluate.run(measured, lambda _: None)
    assert found.kept == report.kept
    network.load_state_dict(load_file("t.safetensors"))
    x, y = (torch.load("data.pt")[key] for key in "xy")
    with torch.no_grad():
        logits = network.eval()(x)
    assert found.accuracy is not None
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-3)

"""Networks that take the targets in training mode, against plain calls of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ntt_cli.config import EvaluateConfig, FinetuneConfig
from ntt_cli.data.sources.batches import inputs_of
from ntt_cli.errors import ModelError
from ntt_cli.evaluation import evaluate
from ntt_cli.networks.targets import giving_losses
from ntt_cli.runtime.python_source import load_python
from ntt_cli.training import finetune

pytestmark = pytest.mark.usefixtures("folder")

DETECTOR = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.norm, self.drop = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.0)
        self.head = nn.Linear(4, 3)

    def forward(self, images, targets=None):
        x = torch.stack(list(images))
        boxes = self.head(self.drop(self.norm(self.backbone(x))))
        if self.training:
            assert targets is not None
            pairs = zip(boxes, targets, strict=True)
            return {"boxes": sum((b - t["boxes"].mean(0)).square().sum() for b, t in pairs) / len(x)}
        return [{"boxes": b.detach()[None].expand(1 + i % 2, 3)} for i, b in enumerate(boxes)]

def build_model():
    return Detector()

def loss(outputs, targets):
    return sum(outputs.values())

def metrics(outputs, targets):
    return {"found": sum(len(found["boxes"]) for found in outputs) / len(targets)}

class Images(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        draw = torch.Generator().manual_seed(i)
        return torch.randn(5, generator=draw), {"boxes": torch.randn(1 + i % 3, 3, generator=draw)}

def build_data():
    return DataLoader(Images(), batch_size=6, collate_fn=lambda items: tuple(zip(*items)))
"""


def mean_loss(state: dict[str, torch.Tensor] | None = None, *, frozen: bool) -> float:
    """The loss of all images, by plain calls."""
    module = load_python(Path("model.py"), ModelError)
    torch.manual_seed(0)
    network = module.build_model()
    if state is not None:
        network.load_state_dict(state)
    if frozen:
        network.norm.eval()
    images, targets = zip(*(module.Images()[i] for i in range(6)), strict=True)
    network.training = True
    return float(network(images, targets)["boxes"].detach())


def test_finetuning_takes_the_networks_own_losses() -> None:
    Path("model.py").write_text(DETECTOR)
    config = FinetuneConfig(
        model="model.py", data="model.py:build_data", epochs=1, validation=0, output="x.safetensors", device="cpu"
    )
    report = finetune.run(config, lambda _: None)
    assert report.epochs[0].train_loss == pytest.approx(mean_loss(frozen=False), rel=1e-5)


def test_evaluation_gives_the_losses_and_the_metrics_of_what_is_found() -> None:
    Path("model.py").write_text(DETECTOR)
    options: dict[str, Any] = {"model": "model.py", "data": "model.py:build_data", "device": "cpu"}
    finetune.run(FinetuneConfig(**options, epochs=1, validation=0, output="x.safetensors"), lambda _: None)
    report = evaluate.run(EvaluateConfig(**options, checkpoint="x.safetensors"), lambda _: None)
    assert report.metrics["loss"] == pytest.approx(mean_loss(load_file("x.safetensors"), frozen=True), rel=1e-5)
    assert report.metrics["found"] == 1.5


def test_labels_without_a_loss_are_refused() -> None:
    Path("model.py").write_text(DETECTOR.replace("def loss", "def other").replace("def metrics", "def another"))
    config = FinetuneConfig(model="model.py", data="model.py:build_data", epochs=1, output="x.safetensors")
    with pytest.raises(ModelError, match="is compared by what its layers return, head") as caught:
        finetune.run(config, lambda _: None)
    assert caught.value.hint.startswith("define loss(outputs, targets) in model.py")


def test_statistics_and_dropout_stay_as_in_evaluation() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5)).eval()

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

    own = Own().eval()
    with giving_losses(own):
        assert own.training
        assert not any(layer.training for layer in network.modules())
    assert not own.training


def test_images_one_by_one_are_one_argument() -> None:
    images = (torch.zeros(3, 4, 4), torch.zeros(3, 5, 4))
    targets = ({"boxes": torch.zeros(1, 4)}, {"boxes": torch.zeros(0, 4)})
    names = (["images"], ["targets"])
    assert inputs_of((images, targets), names, "x") == (list(images), list(targets))
    x, labels = inputs_of((images, torch.zeros(2)), (["x", "mask"], []), "x")
    assert x is images
    assert labels.shape == (2,)

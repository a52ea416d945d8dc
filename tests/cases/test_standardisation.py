"""A network that others trained on inputs of mean 0.5 and deviation 0.1 agrees with itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ntt_cli.config import EvaluateConfig, PruneConfig
from ntt_cli.evaluation import evaluate
from ntt_cli.pruning import prune
from ntt_cli.results import EvaluateReport
from ntt_cli.runtime.events import Event, Warned

MODEL = """from torch import nn
DATA = "images.npz"
def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
"""
MEAN, STD = 0.5, 0.1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture
def choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What the network chooses on the images by its own preprocessing, which are also their labels."""
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    net = network()
    save_file(net.state_dict(), "foreign.safetensors")
    pixels = np.random.default_rng(0).integers(0, 120, (200, 3, 8, 8)).astype(np.uint8)  # darker than in training
    with torch.no_grad():
        chosen = net((torch.from_numpy(pixels).float() / 255 - MEAN) / STD).argmax(1)
    np.savez("images.npz", x=pixels, y=chosen.numpy())
    return chosen


def accuracy(**values: Any) -> float:
    options = {"model": "model.py", "checkpoint": "foreign.safetensors", "device": "cpu"}
    report: EvaluateReport = evaluate.run(EvaluateConfig(**(options | values)), lambda _: None)
    assert report.accuracy is not None
    return report.accuracy


@pytest.mark.parametrize("where", ["options", "model.py"])
def test_with_its_own_preprocessing_it_agrees_with_itself(choices: Tensor, where: str) -> None:
    options: dict[str, Any] = {"mean": "0.5", "std": "0.1"} if where == "options" else {}
    if where == "model.py":
        Path("model.py").write_text(f"{MODEL}\nMEAN, STD = ({MEAN}, {MEAN}, {MEAN}), {STD}\n")
    assert accuracy(**options) == 1.0
    config = PruneConfig(
        model="model.py", sparsity=0, weights="foreign.safetensors", device="cpu", method="magnitude", **options
    )
    prune.run(config, lambda _: None)
    Path("model.py").write_text(MODEL)
    assert accuracy(checkpoint="sparse.safetensors") == 1.0  # by the record alone


def test_without_it_inputs_are_as_they_are_and_not_normalised_by_the_data(choices: Tensor) -> None:
    with np.load("images.npz") as archive:
        x = torch.from_numpy(archive["x"]).float() / 255
    net = network()
    net.load_state_dict(load_file("foreign.safetensors"))
    with torch.no_grad():
        raw = float((net(x).argmax(1) == choices).double().mean())
        own = float((net((x - x.mean()) / x.std()).argmax(1) == choices).double().mean())
    assert accuracy() == raw != own


def warned(**values: Any) -> list[str]:
    events: list[Event] = []
    options = {"model": "model.py", "checkpoint": "foreign.safetensors", "device": "cpu"}
    evaluate.run(EvaluateConfig(**(options | values)), events.append)
    return [event.message for event in events if isinstance(event, Warned) and "look like numbers" in event.message]


BYTES = "look like numbers for pixels of 0 to 255, but ntt reads pixels as 0 to 1; if so, write"


@pytest.mark.parametrize(
    ("mean", "std", "shown", "instead"),
    [
        ("102", "51", "mean 102 and deviation 51", "--mean 0.4 --std 0.2"),
        ("102,51,255", "51", "mean 102,51,255 and deviation 51", "--mean 0.4,0.2,1 --std 0.2"),
        ("0", "255", "mean 0 and deviation 255", "--mean 0 --std 1"),
        ("127.5", "1", "mean 127.5 and deviation 1", "--mean 0.5 --std 0.003922"),
    ],
)
def test_numbers_for_pixels_of_0_to_255(choices: Tensor, mean: str, std: str, shown: str, instead: str) -> None:
    told = f"{BYTES} {instead}, or MEAN and STD in model.py alike"
    assert warned(mean=mean, std=std) == [f"{shown} (--mean and --std) {told}"]
    Path("model.py").write_text(f"{MODEL}\nMEAN, STD = ({mean}), ({std})\n")
    assert warned() == [f"{shown} (MEAN and STD in model.py) {told}"]


@pytest.mark.parametrize(("mean", "std"), [("0.5", "0.1"), ("0.485,0.456,0.406", "0.229"), ("1", "3"), ("-1", "1")])
def test_numbers_for_pixels_of_0_to_1(choices: Tensor, mean: str, std: str) -> None:
    assert warned(mean=mean, std=std) == []


def test_measurements_may_be_of_any_size(choices: Tensor) -> None:
    with np.load("images.npz") as archive:
        np.savez("floats.npz", x=archive["x"].astype(np.float32), y=archive["y"])
    assert warned(data="floats.npz", mean="102", std="51") == []

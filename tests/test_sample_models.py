from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ntt_cli.config import ModelOptions
from ntt_cli.networks.loading.models import load_model

FOLDER = Path(__file__).parent.parent / "sample_models"

# Weights and biases, layer by layer.
MLP = (64 * 100 + 100) + (100 * 50 + 50) + (50 * 10 + 10)
LENET_300_100 = (784 * 300 + 300) + (300 * 100 + 100) + (100 * 10 + 10)
LENET5 = (20 * 1 * 25 + 20) + (50 * 20 * 25 + 50) + (50 * 4 * 4 * 500 + 500) + (500 * 10 + 10)
CONV4 = (
    (64 * 3 * 9 + 64) + (64 * 64 * 9 + 64) + (128 * 64 * 9 + 128) + (128 * 128 * 9 + 128)
    + (128 * 8 * 8 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
)  # fmt: skip
RESNET20 = (
    (16 * 1 * 9 + 32)
    + 6 * (16 * 16 * 9 + 32)
    + (32 * 16 * 9 + 64) + 5 * (32 * 32 * 9 + 64)
    + (64 * 32 * 9 + 128) + 5 * (64 * 64 * 9 + 128)
    + (64 * 10 + 10)
)  # fmt: skip
RESNET_CIFAR = RESNET20 + 16 * 2 * 9  # three channels of colour
VIT_BLOCK = 2 * 128 + (64 * 192 + 192) + (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64)
VIT_TINY = (64 * 1 * 16 + 64) + 49 * 64 + 4 * VIT_BLOCK + 128 + (64 * 10 + 10)

SIZES = {
    "digits_mlp": MLP,
    "lenet_300_100": LENET_300_100,
    "lenet5_caffe": LENET5,
    "conv4": CONV4,
    "resnet20": RESNET20,
    "resnet_cifar": RESNET_CIFAR,
    "vit_tiny": VIT_TINY,
}


def options(name: str, *arguments: str) -> ModelOptions:
    return ModelOptions(model=str(FOLDER / f"{name}.py"), model_arg=arguments)


def test_every_sample_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_sample(name: str) -> None:
    loaded = load_model(options(name), seed=1)
    assert loaded.data in {"digits", "fashion-mnist", "cifar10"}
    assert loaded.input_shape is not None
    assert sum(parameter.numel() for parameter in loaded.module.parameters()) == SIZES[name]

    with torch.no_grad():
        logits = loaded.module.eval()(torch.randn(3, *loaded.input_shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, 10)
    assert (logits < 0).any()  # raw, neither rectified nor normalised
    assert logits.std(dim=0).min() > 1e-3  # and no output is constant

    again, other = (load_model(options(name), seed=seed).module.state_dict() for seed in (1, 2))
    state = loaded.module.state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert any(not torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("digits_mlp", ("hidden=(20,)", "inputs=9"), (3, 3)),
        ("lenet_300_100", ("inputs=64",), (1, 8, 8)),
        ("lenet5_caffe", ("channels=3", "size=32"), (3, 32, 32)),
        ("conv4", ("channels=1", "size=28"), (1, 28, 28)),
        ("resnet20", ("channels=3",), (3, 32, 32)),
        ("vit_tiny", ("channels=3", "size=32", "depth=2"), (3, 32, 32)),
    ],
)
def test_sample_for_other_data(name: str, arguments: tuple[str, ...], shape: tuple[int, ...]) -> None:
    module = load_model(options(name, "classes=7", *arguments), seed=0).module
    with torch.no_grad():
        assert module(torch.zeros(2, *shape)).shape == (2, 7)

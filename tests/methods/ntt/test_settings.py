from __future__ import annotations

from typing import Any

import pytest

from ntt_cli.config import ModelOptions, PruneConfig, method_class
from ntt_cli.methods.ntt.settings import settle
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.loading.models import load_model
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, {"steps": 3000, "batch_size": 64, "kernel_weight": 1, "weight_penalty": 0, "allocation": "erk"}),
        ({"method": "synflow"}, {"allocation": "global"}),
        ({"method": "magnitude"}, {"allocation": "erk"}),
        ({"allocation": "layerwise"}, {"allocation": "layerwise"}),
        ({"kernel_weight": 0}, {"steps": 6000, "batch_size": 64}),
        ({"kernel_weight": 0, "steps": 7, "batch_size": 6}, {"steps": 7, "batch_size": 6}),
        ({"epochs": 2.5, "batch_size": 16}, {"steps": 16, "epochs": None}),
        ({"epochs": 2.5, "kernel_weight": 0}, {"steps": 4}),
        ({"epochs": 0.001}, {"steps": 1}),
        ({"method": "gmp"}, {"kernel_weight": 0, "steps": 6000, "batch_size": 64, "allocation": "erk"}),
        ({"method": "obc"}, {"kernel_weight": 0, "steps": 0, "allocation": "erk"}),
        ({"method": "obc", "steps": 5}, {"steps": 5, "batch_size": 64}),
        ({"method": "obc", "epochs": 2}, {"steps": 4, "batch_size": 64}),
        ({"method": "sparsegpt", "steps": "auto"}, {"steps": "auto"}),
        ({"method": "reconstruct", "mask": "wanda"}, {"allocation": "layerwise", "steps": 0}),
        ({"preset": "paper"}, {"steps": 32, "kernel_weight": 1e-3, "weight_penalty": 1e-4, "allocation": "layerwise"}),
        ({"weights": "w.safetensors"}, {"kernel_weight": 0, "steps": 6000, "batch_size": 64, "weight_penalty": 0}),
        ({"weights": "w.safetensors", "kernel_weight": 0.5}, {"kernel_weight": 0.5, "steps": 3000, "batch_size": 64}),
        ({"weights": "w.safetensors", "preset": "paper"}, {"kernel_weight": 1e-3, "weight_penalty": 0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["plain", "convolutional"])
def test_what_the_user_leaves_out(name: str, given: dict[str, Any], used: dict[str, Any]) -> None:
    model = write_network(name)
    teacher = functional_model(load_model(ModelOptions(model=model), seed=0).module)
    config = PruneConfig(model=model, sparsity=0.5, **given)
    trained, method = config.weights is not None, method_class(config.method)
    settings = settle(config, teacher, [], samples=100, trained=trained, method=method)
    if name == "convolutional" and "weight_penalty" in used:
        used = used | {"weight_penalty": used["weight_penalty"] / 10}
    if name == "convolutional" and given == {}:
        used = used | {"allocation": "global"}
    assert used.items() <= settings.recorded().items()

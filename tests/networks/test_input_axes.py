"""Where the inputs of a weight lie, for each kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ntt_cli.data.inputs import Inputs
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.input_axes import InputAxis, input_axes
from ntt_cli.networks.prepare import to_functional
from tests.parts import inputs_of


def functional(module: nn.Module) -> FunctionalModel:
    return to_functional(module, torch.device("cpu"), lambda _: None)


def axes_of(module: nn.Module, inputs: Inputs | None = None) -> dict[str, InputAxis]:
    model = functional(module)
    return input_axes(model, tuple(name for name, p in model.params.items() if p.ndim > 1), inputs)


LAYERS = {
    "linear": (nn.Linear(6, 5), {"weight": InputAxis(1, 6)}),
    "conv1d": (nn.Conv1d(6, 5, 3), {"weight": InputAxis(1, 6)}),
    "conv3d": (nn.Conv3d(6, 5, 3), {"weight": InputAxis(1, 6)}),
    "in groups": (nn.Conv2d(8, 4, 3, groups=2), {"weight": InputAxis(1, 4)}),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), {"weight": InputAxis(1, 1)}),
    "transposed": (nn.ConvTranspose2d(8, 6, 3, groups=2), {"weight": InputAxis(0, 4)}),
    "recurrent": (
        nn.LSTM(6, 4, proj_size=2),
        {"weight_ih_l0": InputAxis(1, 6), "weight_hh_l0": InputAxis(1, 2), "weight_hr_l0": InputAxis(1, 4)},
    ),
    "attention": (
        nn.MultiheadAttention(8, 2),
        {"in_proj_weight": InputAxis(1, 8), "out_proj.weight": InputAxis(1, 8)},
    ),
    "weight norm": (
        parametrizations.weight_norm(nn.Linear(6, 5)),
        {"parametrizations.weight.original1": InputAxis(1, 6)},
    ),
    "bilinear": (nn.Bilinear(4, 4, 3), {}),
    "embedding": (nn.Embedding(9, 4), {}),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_torch(kind: str) -> None:
    module, expected = LAYERS[kind]
    found = axes_of(module)
    assert {name: axis for name, axis in found.items() if "original0" not in name} == expected


class ByHand(nn.Module):
    """A matrix product with the weight on the right, one by `F.linear`, and a weight that acts in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.randn(4, 6))
        self.left = nn.Parameter(torch.randn(3, 6))
        self.both = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x @ self.right, self.left)
        return x @ self.both + self.both.sum()


def test_samples_show_how_other_weights_are_used() -> None:
    inputs = inputs_of(torch.randn(4, 4))
    assert axes_of(ByHand(), inputs) == {"right": InputAxis(0, 4), "left": InputAxis(1, 6)}
    assert axes_of(ByHand()) == {}


def test_a_tied_embedding_goes_by_the_layer() -> None:
    network = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    network[1].weight = network[0].weight
    assert axes_of(network) == {"0.weight": InputAxis(1, 4)}

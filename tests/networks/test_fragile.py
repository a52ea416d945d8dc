from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ntt_cli.networks.fragile import fragile_axes, fragile_parametrizations
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.prunable import prunable_names

ORIGINAL = "0.parametrizations.weight.original1"


class CrossCovariance(nn.Module):
    """Attention between channels, each of them normalised over the positions, as in XCiT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.unflatten(1, (-1, 6))).transpose(1, 2).chunk(3, 1)
        weights = nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).transpose(1, 2)
        return self.head((weights.softmax(-1) @ v).mean(-1))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(weight_norm(nn.Linear(12, 4)), nn.ReLU(), nn.Linear(4, 2)), {ORIGINAL: 0}),
        (nn.Sequential(weight_norm(nn.Linear(12, 4), dim=1), nn.Linear(4, 2)), {ORIGINAL: 1}),
        (nn.Sequential(spectral_norm(nn.Linear(12, 4)), nn.LayerNorm(4), nn.Linear(4, 2)), {}),
        (nn.Sequential(nn.Linear(12, 1), nn.Linear(1, 2)), {}),
        (CrossCovariance(), {"qkv.weight": 0}),
    ],
    ids=["weight norm", "by input", "spectral norm", "one unit", "cross-covariance"],
)
def test_what_divides_by_a_norm_is_found_by_effect(network: nn.Module, expected: dict[str, int]) -> None:
    model = functional_model(network)
    names = prunable_names(model)
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    assert fragile_axes(model.bind(), model.params, names, x) == expected
    if "qkv.weight" not in expected:  # a parametrisation needs no inputs
        assert fragile_parametrizations(model, names) == expected

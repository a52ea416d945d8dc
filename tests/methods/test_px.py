from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.errors import ModelError
from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.px import px_scores
from ntt_cli.networks.functional import functional_model
from tests.kernel_cases import random_masks

SIZES = (3, 5, 4, 2)
NAMES = ["0.weight", "2.weight", "4.weight"]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)]
        return nn.Sequential(*layers).double()


def bound(squares: list[Tensor], kept: list[Tensor], gates: list[Tensor], x: Tensor) -> Tensor:
    """`Σ_c (Σ_paths Π θ²) (Σ_n Σ_paths x² a)`, path by path."""
    total = torch.zeros((), dtype=torch.float64)
    for c in range(SIZES[-1]):
        weights = active = torch.zeros((), dtype=torch.float64)
        for i, j, k in product(*map(range, SIZES[:-1])):
            weights = weights + squares[0][j, i] * squares[1][k, j] * squares[2][c, k]
            exists = kept[0][j, i] * kept[1][k, j] * kept[2][c, k]
            for n in range(len(x)):
                active = active + exists * x[n, i] ** 2 * gates[0][n, j] * gates[1][n, k]
        total = total + weights * active
    return total


def test_path_by_path() -> None:
    model, x = functional_model(network()), torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()
    masks = random_masks(model.params)
    params = apply_masks(model.params, masks)
    scores = px_scores(model.bind(), params, masks, x, gates_of=model.bind())

    hidden, gates = x, []
    for layer in (0, 2):
        hidden = hidden @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
        gates.append((hidden > 0).double())
        hidden = hidden.clamp_min(0)
    squares = [params[name].square().requires_grad_() for name in NAMES]
    bound(squares, [masks[name].double() for name in NAMES], gates, x).backward()
    for name, square in zip(NAMES, squares, strict=True):
        assert square.grad is not None
        torch.testing.assert_close(scores[name], square.detach() * square.grad, rtol=1e-10, atol=0)
        assert (scores[name][~masks[name]] == 0).all()


def test_in_place_rectifiers_are_seen_and_smooth_ones_count_as_gates() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double()
    found = []
    for activation in (nn.ReLU(), nn.ReLU(inplace=True), nn.GELU()):
        layers = network()
        layers[1] = activation
        model = functional_model(layers)
        masks = {name: torch.ones_like(model.params[name], dtype=torch.bool) for name in NAMES}
        found.append(px_scores(model.bind(), model.params, masks, x, gates_of=model.bind())["0.weight"])
    assert torch.equal(found[0], found[1])
    assert (found[2] > 0).any()


def test_a_network_without_rectifiers_is_refused() -> None:
    model = functional_model(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double())
    masks = random_masks(model.params)
    with pytest.raises(ModelError, match="has no rectifier"):
        px_scores(model.bind(), model.params, masks, torch.ones(2, 3).double(), gates_of=model.bind())

from __future__ import annotations

import torch
from torch import nn

from ntt_cli.masks.masks import apply_masks, count_kept
from ntt_cli.masks.rounds import prune_in_rounds
from ntt_cli.methods.synflow import synflow_scores
from ntt_cli.networks.functional import functional_model
from tests.kernel_cases import random_masks

NAMES = ["0.weight", "2.weight", "4.weight"]


def network(*, bias: bool) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(3, 5, bias=bias), nn.ReLU(), nn.Linear(5, 4, bias=bias), nn.ReLU(), nn.Linear(4, 2, bias=bias)
        )


def ones() -> torch.Tensor:
    return torch.ones(1, 3, dtype=torch.float64)


def test_brute_force() -> None:
    """The flow is linear in each single weight, so that its score is what the flow loses without it."""
    model = functional_model(network(bias=True))
    params = apply_masks(model.params, random_masks(model.params))
    scores = synflow_scores(model.bind(), params, NAMES, ones())

    def flow(without: tuple[str, int] | None = None) -> torch.Tensor:
        positive = {name: p.double().abs() for name, p in params.items()}
        if without is not None:
            positive[without[0]].view(-1)[without[1]] = 0
        x = ones()
        for layer in (0, 2, 4):
            x = x @ positive[f"{layer}.weight"].T + positive[f"{layer}.bias"]
        return x.sum()

    for name in NAMES:
        expected = torch.stack([flow() - flow((name, index)) for index in range(params[name].numel())])
        torch.testing.assert_close(scores[name].flatten(), expected, rtol=1e-10, atol=1e-12)


def test_conservation() -> None:
    """Theorem 1 of the paper: what comes into a hidden unit goes out of it, and every layer carries the whole flow."""
    model = functional_model(network(bias=False))
    first, second, third = synflow_scores(model.bind(), model.params, NAMES, ones()).values()
    torch.testing.assert_close(first.sum(dim=1), second.sum(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(second.sum(dim=1), third.sum(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(first.sum(), third.sum(), rtol=1e-12, atol=0)


def test_a_hundred_rounds_leave_no_layer_empty_where_one_round_may() -> None:
    model = functional_model(network(bias=False))
    dense = {name: torch.ones_like(model.params[name], dtype=torch.bool) for name in NAMES}
    masks = prune_in_rounds(
        lambda masks: synflow_scores(model.bind(), apply_masks(model.params, masks), NAMES, ones()),
        dense,
        rounds=100,
        allocation="global",
        density=3 / 43,
        layer_density={},
    )
    assert count_kept(masks) == 3
    # One weight in each layer, and they meet: a path from input to output.
    path = torch.ones(3)
    for name in NAMES:
        path = masks[name].float() @ path
    assert path.sum() == 1


def test_deep_networks_stay_in_range() -> None:
    deep = functional_model(nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(60))))
    wide = {name: 1e3 * p for name, p in deep.params.items()}
    for params in (deep.params, wide):
        scores = synflow_scores(deep.bind(), params, list(params), torch.ones(1, 64).double())
        assert all(score.isfinite().all() and (score > 0).any() for score in scores.values())

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.random import random_scores


def test_magnitude() -> None:
    params = {"a": torch.tensor([[-2.0, 1.0]], requires_grad=True), "b": torch.tensor([3.0])}
    scores = magnitude_scores(params, ["a"])
    assert {name: score.tolist() for name, score in scores.items()} == {"a": [[2.0, 1.0]]}
    assert not scores["a"].requires_grad


def draw(seed: int) -> dict[str, Tensor]:
    params = {"a": torch.zeros(50, 20), "b": torch.zeros(7), "c": torch.zeros(3, 2, 1)}
    return random_scores(params, ["a", "c"], generator=torch.Generator().manual_seed(seed))


def test_random_scores_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    scores = draw(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: score.shape for name, score in scores.items()} == {"a": (50, 20), "c": (3, 2, 1)}
    assert all(torch.equal(scores[name], draw(1)[name]) for name in scores)
    assert not torch.equal(scores["a"], draw(2)["a"])


def test_random_scores_are_uniform() -> None:
    values = draw(0)["a"].flatten()
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean().item() == pytest.approx(0.5, abs=3 * (1 / 12 / 1000) ** 0.5)
    assert values.std().item() == pytest.approx((1 / 12) ** 0.5, rel=0.05)

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ntt_cli.methods.lamp import lamp_scores


def brute_force(weight: Tensor) -> Tensor:
    """`w²` over the sum of all larger or equal `w²`, weight by weight."""
    squares = [float(w) ** 2 for w in weight.double().flatten()]
    scores = [s / sum(other for other in squares if other >= s) if s else 0.0 for s in squares]
    return torch.tensor(scores, dtype=torch.float64).view(weight.shape)


def test_by_hand() -> None:
    scores = lamp_scores(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    assert scores.tolist() == [[1 / 14, 4 / 13], [0.0, 1.0]]


def test_equal_weights_score_alike() -> None:
    assert lamp_scores(torch.tensor([2.0, -2.0, 1.0])).tolist() == [1 / 2, 1 / 2, 1 / 9]


@pytest.mark.parametrize("shape", [(1,), (4, 7), (3, 2, 5, 5)])
def test_against_brute_force(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lamp_scores(weight), brute_force(weight), rtol=1e-12, atol=0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_ties_against_brute_force(values: list[int]) -> None:
    weight = torch.tensor(values, dtype=torch.float32)
    torch.testing.assert_close(lamp_scores(weight), brute_force(weight), rtol=1e-12, atol=0)


def test_zeros_and_a_graph() -> None:
    scores = lamp_scores(torch.zeros(3, requires_grad=True))
    assert scores.tolist() == [0.0, 0.0, 0.0]
    assert not scores.requires_grad

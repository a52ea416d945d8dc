from __future__ import annotations

import pytest
import torch

from ntt_cli.tasks.metrics import per_class_accuracy, same_first_choice, squares, top_k_correct

LOGITS = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0], [-3.0, -1.0, -2.0], [0.0, 5.0, 1.0]])
LABELS = torch.tensor([1, 2, 0, 2])


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 1]), (3, [1, 1, 1, 1]), (5, [1, 1, 1, 1])]
)
def test_top_k_by_hand(k: int, expected: list[int]) -> None:
    """With fewer classes than `k`, every label is among the best."""
    assert top_k_correct(LOGITS, LABELS, k=k).tolist() == expected


def test_accuracy_by_class_knows_classes_without_samples() -> None:
    correct = torch.tensor([1, 0, 1, 1, 0])
    labels = torch.tensor([0, 0, 0, 2, 4])
    assert per_class_accuracy(correct, labels, classes=5) == [pytest.approx(2 / 3), None, 1.0, None, 0.0]


def test_agreement_compares_first_choices_only() -> None:
    other = torch.tensor([[0.0, 0.1, 0.0], [9.0, 8.0, 7.0], [0.0, -1.0, -2.0], [7.0, 6.0, 5.0]])
    assert same_first_choice(LOGITS, other) == (2, 4)
    assert same_first_choice(LOGITS, 2 * LOGITS) == (4, 4)


def test_a_tie_is_no_choice() -> None:
    """The teacher's: of rows with two best that rounding alone tells apart."""
    tied = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0 + 2e-7, 0.0], [0.0, 0.0, 0.0], [1.0, 1.001, 0.0]])
    assert same_first_choice(tied, tied) == (1, 1)
    assert same_first_choice(LOGITS, tied) == (1, 1)
    assert same_first_choice(tied.bfloat16(), tied.bfloat16()) == (0, 0)


def test_squares_of_few_bits_do_not_overflow() -> None:
    assert squares(torch.full((4,), 1000.0, dtype=torch.float16)).item() == 4e6

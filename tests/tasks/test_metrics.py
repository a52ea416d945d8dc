from __future__ import annotations

import pytest
import torch

from ntt_cli.tasks.metrics import auroc, average_precision, f1, mean_iou, same_first_choice, squares, top_k_correct

LOGITS = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0], [-3.0, -1.0, -2.0], [0.0, 5.0, 1.0]])
LABELS = torch.tensor([1, 2, 0, 2])


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 1]), (3, [1, 1, 1, 1]), (5, [1, 1, 1, 1])]
)
def test_top_k_by_hand(k: int, expected: list[int]) -> None:
    """With fewer classes than `k`, every label is among the best."""
    assert top_k_correct(LOGITS, LABELS, k=k).tolist() == expected


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


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    scores = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.4, -1.0])
    true = torch.tensor([0, 1, 0, 1, 0, 1])
    pairs = [(p, q) for p in scores[true == 1].tolist() for q in scores[true == 0].tolist()]
    by_hand = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)
    assert auroc(scores, true) == pytest.approx(by_hand)
    assert auroc(scores, torch.zeros(6)) is None
    assert auroc(scores, torch.ones(6)) is None


def test_average_precision_by_hand() -> None:
    """Thresholds 0.9, 0.5 (two samples) and 0.1: precision 1, 2/3 and 2/4; recall 1/2, 1 and 1."""
    assert average_precision(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 0, 1, 0])) == pytest.approx(
        1 / 2 * 1 + 1 / 2 * 2 / 3
    )
    assert average_precision(torch.tensor([0.9, 0.5]), torch.tensor([0, 0])) is None


def test_f1_by_hand() -> None:
    """Precision 2/3 and recall 2/4."""
    assert float(f1(torch.tensor(2), torch.tensor(3), torch.tensor(4))) == pytest.approx(2 / (3 / 2 + 4 / 2))
    assert float(f1(torch.tensor(0), torch.tensor(0), torch.tensor(0))) == 0


def test_mean_iou_leaves_out_classes_that_do_not_occur() -> None:
    right, labels, chosen = torch.tensor([3, 0, 0]), torch.tensor([4, 1, 0]), torch.tensor([3, 2, 0])
    assert mean_iou(right, labels, chosen) == pytest.approx((3 / 4 + 0 / 3) / 2)

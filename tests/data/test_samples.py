from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntt_cli.data.samples import InMemory, Samples, draw


def small_set() -> Samples:
    values = torch.arange(10, dtype=torch.float32).view(10, 1)
    return Samples("some", InMemory(values), labels=torch.arange(10) % 3, class_names=("a", "b", "c"), split="train")


def test_a_subset_of_a_subset_fetches_from_the_original() -> None:
    subset = small_set().subset(torch.tensor([9, 7, 5, 3])).subset(torch.tensor([3, 1]))
    assert len(subset) == 2
    assert subset.inputs(torch.tensor([1, 0])).tolist() == [[7.0], [3.0]]
    assert subset.labels is not None
    assert subset.labels.tolist() == [0, 1]
    assert (subset.spec, subset.class_names, subset.split) == ("some", ("a", "b", "c"), "train")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Samples("d", InMemory(torch.zeros(1234, 3, 5, 6, dtype=torch.uint8))), "d, 1,234 images of [3, 5, 6]"),
        (Samples("d", InMemory(torch.zeros(1, 20))), "d, 1 sample of [20]"),
        (Samples("d", InMemory(torch.zeros(2, 9).long())), "d, 2 sequences of [9]"),
        (
            Samples("d", InMemory(torch.zeros(2, 9)), class_names=("models", "test", "train")),
            "d, 2 samples of [9] in 3 classes: models, test, train",
        ),
        (Samples("d", InMemory(torch.zeros(2, 9)), class_names=("a",)), "d, 2 samples of [9] in 1 class: a"),
        (
            Samples("d", InMemory(torch.zeros(2, 9)), class_names=("n" * 300,) * 1000),
            f"d, 2 samples of [9] in 1,000 classes: {', '.join(['n' * 20 + '…'] * 10)}, …",
        ),
        (
            Samples("d", InMemory(torch.zeros(2, 9)), changes="seeded"),
            "d, 2 samples of [9]; its items are random, and drawn anew in each reading",
        ),
    ],
)
def test_what_they_are_in_a_line(data: Samples, words: str) -> None:
    assert data.described() == words


def test_images_are_scaled_when_they_are_asked_for() -> None:
    images = Samples("some", InMemory(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)))
    expected = [1.0, torch.tensor(51 / 255).item(), 0.0]
    assert images.inputs(torch.tensor([2, 1, 0])).flatten().tolist() == expected


@given(n=st.integers(1, 200), limit=st.none() | st.integers(1, 300))
def test_a_limit_draws_so_many_different_samples_in_order_and_always_the_same(n: int, limit: int | None) -> None:
    drawn = draw(n, limit).tolist()
    assert len(drawn) == (n if limit is None else min(n, limit))
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(range(n))
    assert drawn == draw(n, limit).tolist()


def test_a_limit_draws_from_everywhere_by_seed_0() -> None:
    assert draw(10, 3).tolist() == sorted(torch.randperm(10, generator=torch.Generator().manual_seed(0))[:3].tolist())
    assert draw(1000, 10)[-1] > 500

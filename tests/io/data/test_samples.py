from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ntt_cli.io.data.samples import InMemory, Samples, draw


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


def test_labels_can_be_dropped() -> None:
    inputs_only = small_set().without_labels()
    assert inputs_only.labels is None
    assert inputs_only.class_names is None
    assert len(inputs_only.subset(torch.tensor([1, 2]))) == 2


def test_images_are_scaled_when_they_are_fetched() -> None:
    images = InMemory(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1))
    assert images.fetch(torch.tensor([2, 1, 0])).flatten().tolist() == [1.0, torch.tensor(51 / 255).item(), 0.0]


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

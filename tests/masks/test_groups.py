"""Masks of a pattern, against sorting each group by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ntt_cli.config.pattern import Groups
from ntt_cli.masks.allocation import allocate, allocate_global, least_of
from ntt_cli.masks.masks import best_of_slices, choose_masks, keep_top_of_slices
from ntt_cli.masks.rounds import prune_in_rounds

Place = tuple[int, ...]


def groups_by_hand(shape: tuple[int, ...], groups: Groups) -> list[list[Place]]:
    """The places of each group, in order: they differ along the axis alone."""
    others = [range(size) if side != groups.axis else [0] for side, size in enumerate(shape)]
    return [
        [(*at[: groups.axis], start + k, *at[groups.axis + 1 :]) for k in range(groups.of)]
        for at in product(*others)
        for start in range(0, shape[groups.axis], groups.of)
    ]


def kept_by_hand(scores: Tensor, groups: Groups, n_keep: int) -> Tensor:
    """The best of each group, and then the best of all others; ties go to the first in row-major order."""
    by_score = lambda place: (-float(scores[place]), place)  # noqa: E731
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for group in groups_by_hand(tuple(scores.shape), groups):
        for place in sorted(group, key=by_score)[: groups.keep]:
            mask[place] = True
    others = sorted((place for place in product(*map(range, scores.shape)) if not mask[place]), key=by_score)
    for place in others[: n_keep - int(mask.sum())]:
        mask[place] = True
    return mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Groups, int]:
    of = draw(st.integers(2, 5))
    groups = Groups(keep=draw(st.integers(1, of - 1)), of=of, axis=draw(st.integers(0, 2)))
    shape = [draw(st.integers(1, 3)) for _ in range(3)]
    shape[groups.axis] *= of
    size = shape[0] * shape[1] * shape[2]
    few = st.sampled_from([-1.0, -0.0, 0.0, 2.0, float("inf")])  # so that ties are many
    scores = torch.tensor(draw(st.lists(few, min_size=size, max_size=size))).view(shape)
    return scores, groups, draw(st.integers(size // of * groups.keep, size))


@settings(deadline=None)
@given(cases())
def test_each_group_keeps_its_best_and_the_rest_goes_by_score(case: tuple[Tensor, Groups, int]) -> None:
    scores, groups, n_keep = case
    mask = keep_top_of_slices(scores, n_keep=n_keep, slices=groups)
    assert torch.equal(mask, kept_by_hand(scores, groups, n_keep))
    assert int(mask.sum()) == n_keep


def test_two_of_four_by_hand() -> None:
    scores = torch.tensor([[1.0, 4, 2, 3, 9, 9, 9, 9], [0, 0, 0, 0, 5, 1, 6, 1]])
    mask = keep_top_of_slices(scores, n_keep=8, slices=Groups(keep=2, of=4, axis=1))
    assert mask.int().tolist() == [[0, 1, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0, 1, 0]]
    one_more = keep_top_of_slices(scores, n_keep=9, slices=Groups(keep=2, of=4, axis=1))
    assert (one_more ^ mask).nonzero().tolist() == [[0, 6]]


def test_a_convolution_has_groups_of_channels_at_one_position() -> None:
    scores = torch.zeros(1, 4, 1, 2)
    scores[0, [0, 2], 0, 0] = 1
    scores[0, [1, 3], 0, 1] = 1
    last = scores.to(memory_format=torch.channels_last)
    for given_scores in (scores, last):
        assert torch.equal(best_of_slices(given_scores, Groups(keep=2, of=4, axis=1)), scores.bool())


def test_what_cannot_be() -> None:
    groups = Groups(keep=2, of=4, axis=0)
    with pytest.raises(ValueError, match="cannot keep 3 weights where slices keep 4"):
        keep_top_of_slices(torch.ones(8), n_keep=3, slices=groups)
    with pytest.raises(ValueError, match="a score is NaN"):
        keep_top_of_slices(torch.tensor([1.0, torch.nan, 2, 3]), n_keep=2, slices=groups)
    with pytest.raises(ValueError, match="keeps 4 of 4"):
        Groups(keep=4, of=4, axis=0)


def test_counts_leave_room_for_every_group() -> None:
    shapes, slices = {"a": (4, 8), "b": (3, 5)}, {"a": Groups(keep=2, of=4, axis=1)}
    assert least_of(shapes, slices) == {"a": 16, "b": 1}
    scores = {"a": torch.zeros(4, 8), "b": torch.ones(3, 5)}
    assert allocate_global(scores, density=20 / 47, slices=slices) == {"a": 16, "b": 4}


def test_rounds_end_at_the_pattern_and_never_fall_below_it() -> None:
    """Scores of pruned entries are zero, so that a group could otherwise lose all but its own."""
    groups, seen = Groups(keep=1, of=4, axis=1), []
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))

    def score(masks: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(masks["a"].unflatten(1, (-1, 4)).sum(-1))
        return {"a": weight.abs() * masks["a"], "b": torch.ones(2, 3)}

    masks = prune_in_rounds(
        score,
        {"a": torch.ones(6, 8, dtype=torch.bool), "b": torch.ones(2, 3, dtype=torch.bool)},
        rounds=5,
        allocation="layerwise",
        density=(12 + 6) / 54,
        layer_density={"a": 0.25, "b": 1.0},
        slices={"a": groups},
    )
    assert min(int(counts.min()) for counts in seen) >= 1
    assert [int(counts.sum()) for counts in seen][0] == 48
    assert torch.equal(masks["a"], choose_masks({"a": weight.abs()}, {"a": 12}, slices={"a": groups})["a"])
    assert masks["b"].all()
    assert allocate("layerwise", {"a": weight}, density=0.25, slices={"a": groups}) == {"a": 12}

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_cli.masks import masks as masks_module
from ntt_cli.masks.masks import (
    apply_masks,
    as_bits,
    best_of_slices,
    choose_masks,
    count_changes,
    count_kept,
    keep_top,
    keep_top_of_slices,
    layer_densities,
    masked,
    without_biases,
    zero_pruned,
)

FEW_VALUES = st.sampled_from([-float("inf"), -1.5, -0.0, 0.0, 0.5, 1.0, float("inf")])  # so that ties are many
SCORES = st.lists(FEW_VALUES | st.floats(allow_nan=False), min_size=1, max_size=40)


@settings(deadline=None)
@given(SCORES.flatmap(lambda scores: st.tuples(st.just(scores), st.integers(0, len(scores)))))
def test_keeps_what_sorting_by_score_and_index_keeps(case: tuple[list[float], int]) -> None:
    scores, n_keep = case
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:n_keep]
    mask = keep_top(torch.tensor(scores, dtype=torch.float64), n_keep=n_keep)
    assert mask.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("shape", [(1000,), (40, 25), (5, 4, 10, 5)])
@pytest.mark.parametrize("n_keep", [0, 1, 123, 1000])
def test_ties_go_to_the_lowest_index_in_any_shape(shape: tuple[int, ...], n_keep: int) -> None:
    mask = keep_top(torch.ones(shape), n_keep=n_keep)
    assert mask.shape == shape
    assert mask.flatten().tolist() == [True] * n_keep + [False] * (1000 - n_keep)


@pytest.mark.parametrize("n_keep", range(8))
def test_ties_beyond_the_first_part(n_keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks_module, "PART", 2)
    scores = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.0])
    best = [2, 1, 3, 5, 6, 0, 4][:n_keep]
    assert keep_top(scores, n_keep=n_keep).nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_of_every_precision(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0], dtype=dtype, requires_grad=True)
    assert keep_top(scores, n_keep=2).tolist() == [False, True, True, False]


def test_scores_of_a_transposed_tensor_keep_their_places() -> None:
    scores = torch.tensor([[1.0, 5.0], [4.0, 2.0], [3.0, 6.0]]).T
    assert keep_top(scores, n_keep=3).tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize("n_keep", [-1, 7])
def test_impossible_counts_are_refused(n_keep: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {n_keep} of 6 weights"):
        keep_top(torch.zeros(2, 3), n_keep=n_keep)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="^a score is NaN$"):
        keep_top(torch.tensor([1.0, float("nan")]), n_keep=1)


def test_each_layer_keeps_its_own_count() -> None:
    scores = {"a": torch.tensor([[1.0, 3.0], [2.0, 0.0]]), "b": torch.tensor([9.0, 9.0, 9.0])}
    masks = choose_masks(scores, {"b": 1, "a": 2})
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [True, False, False]
    assert count_kept(masks) == 3


def test_of_some_layers_every_slice_keeps_its_best() -> None:
    scores = torch.tensor([[9.0, 8.0], [0.0, 1.0]])
    masks = choose_masks({"a": scores, "b": scores}, {"a": 2, "b": 2}, slices={"a": 0})
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("n_keep", [0, 2])
def test_masks_lie_where_their_scores_lie(n_keep: int) -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    with torch.device("meta"):  # the default for new tensors
        assert keep_top(scores, n_keep=n_keep).device == scores.device
        assert best_of_slices(scores, 0).tolist() == [[True, False], [False, True]]


def test_masked_parameters_and_their_gradients_are_zero_where_pruned() -> None:
    params = {"w": torch.tensor([2.0, 3.0, 5.0], requires_grad=True), "b": torch.tensor([7.0], requires_grad=True)}
    masks = {"w": torch.tensor([True, False, True])}
    student = apply_masks(params, masks)
    assert student["w"].tolist() == [2.0, 0.0, 5.0]
    assert student["b"] is params["b"]
    assert params["w"].tolist() == [2.0, 3.0, 5.0]
    (gradient,) = torch.autograd.grad((student["w"] + 1).square().sum(), params["w"])
    assert gradient.tolist() == [6.0, 0.0, 12.0]


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("bits", [False, True], ids=["bools", "bits"])
def test_masking_leaves_kept_numbers_as_they_are_and_zeros_the_rest(dtype: torch.dtype, last: bool, bits: bool) -> None:
    """Whatever the numbers: infinity times zero would not be zero."""
    drawn = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    drawn[0, 0], drawn[1, 1], drawn[2, 2] = torch.inf, -0.0, torch.nan
    values = drawn.to(dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    mask = (torch.arange(60).view(3, 5, 2, 2) % 3 != 0).to(torch.bool)
    expected = [v if kept else 0.0 for v, kept in zip(values.double().flatten(), mask.flatten(), strict=True)]
    expected_values = torch.tensor(expected, dtype=torch.float64)
    given = as_bits({"w": mask}, {"w": values})["w"] if bits else mask
    actual = masked(values, given)
    assert actual.dtype == dtype
    assert actual.stride() == values.stride() or not bits
    assert torch.equal(actual.double().flatten().nan_to_num(7.0), expected_values.nan_to_num(7.0))
    assert not actual.double().flatten()[~mask.flatten()].signbit().any()
    if bits:
        zero_pruned(values, given)
        assert torch.equal(values.double().flatten().nan_to_num(7.0), expected_values.nan_to_num(7.0))


def test_bits_take_their_parameters_layout() -> None:
    """Of two layouts together, arithmetic takes three times as long."""
    weight = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    mask = torch.arange(24).view(2, 3, 2, 2) % 5 == 0
    (bits,) = as_bits({"w": mask}, {"w": weight}).values()
    assert bits.stride() == weight.stride()
    assert bits.dtype == torch.int8
    assert torch.equal(bits, torch.where(mask, -1, 0))


def test_changes_are_counted_in_both_directions() -> None:
    before = {"a": torch.tensor([True, True, False]), "b": torch.tensor([[True], [False]])}
    after = {"a": torch.tensor([False, True, True]), "b": torch.tensor([[True], [True]])}
    assert count_changes(before, after) == 3
    assert count_changes(after, after) == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_no_slice_is_emptied(axis: int) -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0], [0.0, 0.0, 0.0], [6.0, 1.0, 5.0]])
    mask = keep_top_of_slices(scores, n_keep=5, slices=axis)
    expected = {
        0: [[True, True, True], [True, False, False], [True, False, False]],
        1: [[True, True, True], [False, False, False], [True, False, True]],
    }
    assert mask.tolist() == expected[axis]
    assert int(keep_top_of_slices(scores, n_keep=9, slices=axis).sum()) == 9
    assert keep_top_of_slices(scores, n_keep=3, slices=axis).tolist() == best_of_slices(scores, axis).tolist()
    with pytest.raises(ValueError, match="cannot keep 2 weights where slices keep 3"):
        keep_top_of_slices(scores, n_keep=2, slices=axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_best_of_each_slice_is_its_first_highest(axis: int) -> None:
    scores = torch.randint(0, 6, (2, 3, 4), generator=torch.Generator().manual_seed(0)).float()  # with ties
    expected = torch.zeros(2, 3, 4, dtype=torch.bool)
    places = list(product(range(2), range(3), range(4)))
    for number in range(scores.shape[axis]):
        of_slice = [place for place in places if place[axis] == number]
        # `max` returns the first; a slice's entries are in the order of its other axes.
        expected[max(of_slice, key=lambda place: float(scores[place]))] = True
    assert torch.equal(best_of_slices(scores, axis), expected)


def test_masks_of_vectors_are_left_out() -> None:
    masks = {"w": torch.ones(2, 1, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)}
    assert without_biases(masks) == {"w": masks["w"]}


def test_the_density_of_a_layer_is_its_kept_fraction() -> None:
    masks = {"a": torch.tensor([[True, False, False]]), "b": torch.tensor([True, True])}
    assert layer_densities(masks) == {"a": pytest.approx(1 / 3, rel=1e-15), "b": 1.0}

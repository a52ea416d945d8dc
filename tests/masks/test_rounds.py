from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntt_cli.masks.allocation import allocate, total_to_keep
from ntt_cli.masks.masks import choose_masks, count_kept
from ntt_cli.masks.rounds import prune_in_rounds, scheduled_layer_density

SCORES = {"a": torch.arange(20.0).view(4, 5), "b": torch.arange(60.0, 0, -1).view(6, 10), "c": torch.ones(10, 2)}


def test_rounds_fall_geometrically_and_end_exactly() -> None:
    seen: list[int] = []

    def score(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(count_kept(masks))
        return {name: value * masks[name] for name, value in SCORES.items()}

    dense = {name: torch.ones_like(value, dtype=torch.bool) for name, value in SCORES.items()}
    masks = prune_in_rounds(score, dense, rounds=3, allocation="global", density=0.125, layer_density={})
    assert seen == [100, 50, 25]  # 100 · 0.125^(r/3)
    assert count_kept(masks) == round(12.5)
    assert sorted(SCORES["b"][masks["b"]].tolist()) == list(range(51, 61))  # and one each of the other two


@pytest.mark.parametrize(("density", "expected"), [(1.0, 1.0), (0.2, 0.3), (0.6, 0.65)])
def test_densities_by_hand_keep_pace(density: float, expected: float) -> None:
    assert scheduled_layer_density({"a": 0.3}, density=density, target=0.2) == {"a": pytest.approx(expected)}
    assert scheduled_layer_density({"a": 0.3}, density=1.0, target=1.0) == {"a": 0.3}


@pytest.mark.parametrize("allocation", ["erk", "layerwise", "global"])
@given(density=st.floats(0.1, 0.8), share=st.floats(0.01, 1))
def test_layers_by_hand_have_their_count_and_the_whole_its_own(allocation: str, density: float, share: float) -> None:
    layer_density = {"a": share}
    fixed = max(1, round(share * 20))
    left = total_to_keep({"a": 20, "b": 60, "c": 20}, density=density) - fixed
    if 1 <= left <= 81:
        masks = choose_masks(SCORES, allocate(allocation, SCORES, density=density, layer_density=layer_density))
        assert int(masks["a"].sum()) == fixed
        assert count_kept(masks) == min(max(left, 2), 80) + fixed
        assert list(masks) == list(SCORES)
    else:
        with pytest.raises(ValueError, match="the layers set by hand leave"):
            allocate(allocation, SCORES, density=density, layer_density=layer_density)


def test_all_layers_by_hand_must_meet_the_whole() -> None:
    halves = dict.fromkeys(SCORES, 0.5)
    assert allocate("erk", SCORES, density=0.5, layer_density=halves) == {"a": 10, "b": 30, "c": 10}
    assert allocate("erk", SCORES, density=0.51, layer_density=halves) == {"a": 10, "b": 30, "c": 10}
    with pytest.raises(ValueError, match="leave -30 weights to keep, of 0 in 0 others"):
        allocate("erk", SCORES, density=0.2, layer_density=halves)

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ntt_cli.masks.channels import ChannelGroup, Channels, Slices, keep_channels
from ntt_cli.masks.rounds import channel_norms, prune_channels_in_rounds

SHAPES = {"a.weight": torch.Size((3, 2)), "b.weight": torch.Size((4, 3)), "c.weight": torch.Size((2, 8))}


def group(layer: str, size: int, user: str, times: int = 1) -> ChannelGroup:
    """Channels of a layer with a bias; the layer behind has so many columns for each of them."""
    slices = (
        Slices(f"{layer}.weight", 0, torch.arange(size), is_weight=True, uses=False),
        Slices(f"{layer}.bias", 0, torch.arange(size), is_weight=False, uses=False),
        Slices(f"{user}.weight", 1, torch.arange(size).repeat_interleave(times), is_weight=True, uses=True),
    )
    return ChannelGroup(layer, tuple((i,) for i in range(size)), slices)


def chain(*, by_flops: bool = False) -> Channels:
    """Three layers, 2 → 3 → 4 → 2; each output of the second is flattened into two columns of the third."""
    groups = (group("a", 3, "b"), group("b", 4, "c", times=2))
    return Channels(groups, SHAPES, {"a.weight": 600, "b.weight": 24, "c.weight": 32}, 44, by_flops=by_flops)


def kept(*channels: str) -> list[Tensor]:
    return [torch.tensor([one == "1" for one in stays]) for stays in channels]


PARAMS = {name: torch.ones(shape) for name, shape in SHAPES.items()} | {
    "a.bias": torch.ones(3),
    "b.bias": torch.ones(4),
}


def test_a_channel_takes_its_row_its_bias_and_its_columns() -> None:
    masks = chain().masks(kept("101", "0111"), PARAMS)
    assert masks["a.weight"].int().tolist() == [[1, 1], [0, 0], [1, 1]]
    assert masks["a.bias"].tolist() == [True, False, True]
    assert masks["b.weight"].int().tolist() == [[0, 0, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert masks["c.weight"].int().tolist() == [[0, 0, 1, 1, 1, 1, 1, 1]] * 2


def test_vectors_have_masks_only_if_they_are_asked_for() -> None:
    weights = {name: PARAMS[name] for name in SHAPES}
    assert chain().masks(kept("101", "0111"), weights).keys() == SHAPES.keys()


def test_masks_say_which_channels_are_kept() -> None:
    for stays in (kept("101", "0111"), kept("111", "1000")):
        found = chain().kept(chain().masks(stays, PARAMS))
        assert all(torch.equal(a, b) for a, b in zip(found, stays, strict=True))


def test_costs_are_those_of_what_is_left() -> None:
    stays = kept("101", "0111")
    masks = chain().masks(stays, {name: PARAMS[name] for name in SHAPES})
    left = sum(int(mask.sum()) for mask in masks.values())
    assert chain().cost(stays) == pytest.approx(left / 34)
    # 600 · 2/3 + 24 · 2/3 · 3/4 + 32 · 3/4 + 44, of 700
    assert chain(by_flops=True).cost(stays) == pytest.approx(480 / 700)
    assert chain().flops_of(stays) == pytest.approx(480)


def test_each_channel_costs_what_makes_and_what_uses_it() -> None:
    assert [cost.tolist() for cost in chain().cost_of_each()] == [[2 + 4] * 3, [3 + 2 * 2] * 4]
    # 600 / 3 + 24 / 3, and 24 / 4 + 32 / 4
    first, second = chain(by_flops=True).cost_of_each()
    assert first.tolist() == pytest.approx([208] * 3)
    assert second.tolist() == pytest.approx([14] * 4)


def blocks_of(scores: Tensor, size: int) -> list[list[int]]:
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def one_by_one(channels: Channels, scores: list[Tensor], sizes: list[int], limit: float) -> list[list[bool]]:
    """What is left when blocks go one by one, without the first of each group, and come back while they fit."""
    blocks = {
        (float(scores[g][block].mean()), -g, -n): (g, block)
        for g, size in enumerate(sizes)
        for n, block in enumerate(blocks_of(scores[g], size))
    }
    stays = [torch.ones(len(of_group), dtype=torch.bool) for of_group in scores]
    gone = []
    for key in sorted(key for key in blocks if key[2] < 0):
        if channels.cost(stays) <= limit:
            break
        g, block = blocks[key]
        stays[g][block] = False
        gone.append(key)
    for key in reversed(gone):
        g, block = blocks[key]
        before = [blocks[other][1] for other in blocks if other[1] == key[1] and other[2] == key[2] + 1]
        if not stays[g][before[0]].all():
            continue
        stays[g][block] = True
        if channels.cost(stays) > limit:
            stays[g][block] = False
    return [of_group.tolist() for of_group in stays]


@pytest.mark.parametrize("limit", [0.95, 0.7, 0.5])
@pytest.mark.parametrize("by_flops", [False, True])
def test_the_lowest_scores_go_and_no_more_than_must(limit: float, by_flops: bool) -> None:
    channels = chain(by_flops=by_flops)
    scores = [torch.tensor([0.5, 0.1, 0.9]), torch.tensor([0.3, 0.2, 0.8, 0.4])]
    found = keep_channels(channels, scores, limit=limit)
    # Of three channels one goes at a time, of four two: at most half of them.
    assert [of_group.tolist() for of_group in found] == one_by_one(channels, scores, [1, 2], limit)
    assert channels.cost(found) <= limit


@pytest.mark.parametrize(("limit", "size"), [(0.9, 8), (0.5, 8), (0.2, 8), (0.08, 4), (0.03, 2), (0.012, 1)])
def test_channels_go_in_blocks_of_eight_or_fewer_where_they_must(limit: float, size: int) -> None:
    shapes = {"a.weight": torch.Size((20, 5)), "b.weight": torch.Size((50, 20)), "c.weight": torch.Size((3, 50))}
    channels = Channels(
        (group("a", 20, "b"), group("b", 50, "c")), shapes, dict.fromkeys(shapes, 1.0), 0.0, by_flops=False
    )
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(count, generator=generator) for count in (20, 50)]
    found = keep_channels(channels, scores, limit=limit)
    assert [of_group.tolist() for of_group in found] == one_by_one(channels, scores, [size, size], limit)
    assert channels.cost(found) <= limit
    for of_group in found:
        kept = int(of_group.sum())
        assert kept % size == 0 or kept == len(of_group)


def test_a_block_that_fits_comes_back() -> None:
    """The lowest block alone is too little; the next is so large that the lowest fits again."""
    shapes = {"a.weight": torch.Size((16, 1)), "b.weight": torch.Size((2, 16)), "d.weight": torch.Size((16, 100))}
    shapes["e.weight"] = torch.Size((2, 16))
    channels = Channels(
        (group("a", 16, "b"), group("d", 16, "e")), shapes, dict.fromkeys(shapes, 1.0), 0.0, by_flops=False
    )
    scores = [torch.tensor([4.0] * 8 + [1.0] * 8), torch.tensor([4.0] * 8 + [2.0] * 8)]
    found = keep_channels(channels, scores, limit=0.6)
    assert [int(of_group.sum()) for of_group in found] == [16, 8]


def test_of_equal_scores_the_last_channels_go_first() -> None:
    found = keep_channels(chain(), [torch.ones(3), torch.ones(4)], limit=0.7)
    assert [of_group.tolist() for of_group in found] == [[True] * 3, [True, True, False, False]]


def test_no_layer_loses_all_channels() -> None:
    fewest = min(
        chain().cost([torch.tensor(a), torch.tensor(b)])
        for a in itertools.product([True, False], repeat=3)
        for b in itertools.product([True, False], repeat=4)
        if any(a) and any(b)
    )
    found = keep_channels(chain(), [torch.zeros(3), torch.ones(4)], limit=fewest)
    assert [int(of_group.sum()) for of_group in found] == [1, 1]
    with pytest.raises(ValueError, match="is left with the fewest channels"):
        keep_channels(chain(), [torch.zeros(3), torch.ones(4)], limit=fewest - 0.01)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        keep_channels(chain(), [torch.tensor([1.0, torch.nan, 2]), torch.ones(4)], limit=0.5)


def test_a_norm_is_relative_to_its_group() -> None:
    weights = {
        "a.weight": torch.tensor([[1.0, 0], [2, 0], [0, 3]]),
        "b.weight": torch.zeros(4, 3),
        "c.weight": torch.ones(2, 8),
    }
    first, second = channel_norms(chain(), weights)
    assert first.tolist() == pytest.approx([3 / 14, 12 / 14, 27 / 14])  # 1, 4 and 9, over their mean
    assert second.tolist() == [1, 1, 1, 1]


def test_rounds_lower_the_cost_geometrically() -> None:
    seen = []

    def score(masks: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(chain().cost(chain().kept(masks)))
        return {name: mask * torch.arange(1.0, mask.numel() + 1).view(mask.shape) for name, mask in masks.items()}

    dense = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    masks = prune_channels_in_rounds(score, dense, chain(), rounds=2, density=0.36, norms=False)
    assert len(seen) == 2
    assert seen[0] == 1
    assert seen[1] <= 0.6
    assert sum(int(mask.sum()) for mask in masks.values()) <= 0.36 * 34


def test_heads_go_one_by_one_where_channels_go_in_blocks() -> None:
    """Of sixteen of each, five go: five heads, but a block of eight channels."""
    shapes = {"a.weight": torch.Size((16, 1)), "b.weight": torch.Size((1, 16))}
    plain = group("a", 16, "b")
    scores = [torch.arange(16.0)]
    found = []
    for width in (None, 4):
        channels = Channels((replace(plain, head_width=width),), shapes, {}, 0, by_flops=False)
        found.append(int(keep_channels(channels, scores, limit=11.5 / 16)[0].sum()))
    assert found == [8, 11]

from __future__ import annotations

import torch
from torch import Tensor, nn

from ntt_cli.masks.zeros import has_many_zeros, looks_pruned


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pruned(weight: Tensor, share: float) -> Tensor:
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) >= share
    return torch.where(keep, weight, 0)


def test_scattered_zeros_are_pruned_entries() -> None:
    weight = normal(40, 50)
    for share in (0.02, 0.5, 0.9, 0.99):
        assert looks_pruned(pruned(weight, share))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert looks_pruned(pruned(weight, 0.5).to(dtype))
    assert looks_pruned(pruned(normal(4, 3), 0.6))


def test_whole_filters_are_pruned_entries() -> None:
    weight = normal(16, 8, 3, 3)
    weight[::4] = 0
    assert looks_pruned(weight)


def test_zeros_that_training_and_initialisation_leave() -> None:
    assert not looks_pruned(normal(40, 50))
    assert not looks_pruned(pruned(normal(100, 100), 0.005))
    assert not looks_pruned(torch.zeros(40, 50))
    assert not looks_pruned(pruned(normal(2, 3), 0.4))
    small = normal(300, 300) * 0.02
    assert not looks_pruned(small.half())
    assert not looks_pruned(nn.init.zeros_(torch.empty(3, 3)))


def test_zero_is_one_value_of_many_on_a_grid() -> None:
    weight = normal(200, 200)
    for bits in (4, 8):
        step = weight.abs().max() / 2 ** (bits - 1)
        on_grid = (weight / step).round() * step
        assert (on_grid == 0).float().mean() > 0.01
        assert not looks_pruned(on_grid)
    assert not looks_pruned(weight.sign() * (weight.abs() > 0.5))
    assert looks_pruned(pruned((weight * 16).round() / 16, 0.9))


def test_rows_of_an_embedding_that_were_never_used() -> None:
    weight = normal(50, 8)
    weight[:10] = 0
    assert not looks_pruned(weight, embeds=True)
    assert looks_pruned(weight)
    assert looks_pruned(pruned(weight, 0.5), embeds=True)


def test_zeros_that_somebody_may_have_meant() -> None:
    weight = normal(40, 50)
    assert has_many_zeros(weight.sign() * (weight.abs() > 0.5))
    assert has_many_zeros(torch.zeros(40, 50))
    for few in (weight, pruned(weight, 0.005), weight.half() * 0.01, weight.bfloat16() * 1e-6, torch.zeros(2, 2)):
        assert not has_many_zeros(few)


def test_one_row_of_zeros_in_an_embedding_is_padding() -> None:
    weight = normal(50, 8)
    weight[0] = 0
    assert not has_many_zeros(weight, embeds=True)
    assert has_many_zeros(weight)
    weight[:10] = 0
    assert has_many_zeros(weight, embeds=True)

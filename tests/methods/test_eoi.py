from __future__ import annotations

import pytest
import torch
from torch import nn

import ntt_cli as ntt
from ntt_cli.errors import UsageError
from ntt_cli.methods.eoi import orthogonal_weight, sparse_orthogonal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("o", "i"), [(1, 1), (1, 6), (5, 5), (7, 12), (12, 7), (30, 20)])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_rows_or_columns_are_orthonormal_and_the_count_is_nearly_met(o: int, i: int, density: float) -> None:
    count = max(min(o, i), round(density * o * i))
    matrix = sparse_orthogonal(o, i, count, generator=seeded())
    assert matrix.shape == (o, i)
    product = matrix @ matrix.T if o <= i else matrix.T @ matrix
    torch.testing.assert_close(product, torch.eye(min(o, i), dtype=torch.float64), rtol=0, atol=1e-12)
    nonzero = int((matrix != 0).sum())
    assert count - 2 * max(o, i) < nonzero <= count
    if density == 1 and min(o, i) > 1:
        assert nonzero == o * i


def test_too_few_entries_leave_some_orthonormal_rows() -> None:
    matrix = sparse_orthogonal(6, 9, 4, generator=seeded())
    assert torch.equal(matrix @ matrix.T, torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64)))


def test_a_convolution_keeps_the_norm_of_its_inputs() -> None:
    weight = orthogonal_weight(torch.Size([8, 4, 3, 3]), 40, generator=seeded())
    x = torch.randn(2, 4, 6, 6, generator=seeded(1), dtype=torch.float64)
    y = nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1), rtol=1e-12, atol=0)
    assert int((weight != 0).sum()) <= 40


def test_the_mask_holds_the_matrix_and_its_count_and_biases_are_zero() -> None:
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    result = ntt.prune(net, torch.randn(8, 20), sparsity=0.6, method="eoi", trained=False)
    assert sum(int(mask.sum()) for mask in result.masks.values()) == round(0.4 * 900)
    state = result.model.state_dict()
    for name, mask in result.masks.items():
        weight = state[name].double()
        assert not weight[~mask].any()
        product = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(product, torch.eye(len(product)).double(), rtol=0, atol=1e-6)
    assert not any(value.any() for name, value in state.items() if name.endswith("bias"))


def test_trained_weights_are_not_thrown_away() -> None:
    with pytest.raises(UsageError, match="makes all prunable weights itself, from random draws"):
        ntt.prune(nn.Linear(4, 4), torch.randn(8, 4), sparsity=0.5, method="eoi")

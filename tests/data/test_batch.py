from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.data.batch import Batch, arguments, batch_size, map_batch, select, split, tensors_of, to_device

X, Y = torch.arange(12.0).view(6, 2), torch.arange(6)
BATCHES: list[Batch] = [X, (X, Y), {"x": X, "mask": Y}]
every_kind = pytest.mark.parametrize("batch", BATCHES, ids=["tensor", "tuple", "dict"])


@every_kind
def test_length_selection_and_split(batch: Batch) -> None:
    assert batch_size(batch) == 6
    chosen = select(batch, torch.tensor([4, 1]))
    assert type(chosen) is type(batch)
    assert tensors_of(chosen)[0].tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert all(part.tolist() == [4, 1] for part in tensors_of(chosen)[1:])
    parts = split(batch, 4)
    assert [batch_size(part) for part in parts] == [4, 2]
    assert torch.equal(torch.cat([tensors_of(part)[0] for part in parts]), X)


@every_kind
def test_devices_and_functions(batch: Batch) -> None:
    assert all(part.is_meta for part in tensors_of(to_device(batch, torch.device("meta"))))
    assert torch.equal(tensors_of(map_batch(lambda part: part + 1, batch))[0], X + 1)
    assert X[0, 0] == 0


class Sum(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x.sum() if mask is None else x.sum() + 100 * mask.sum()


@pytest.mark.parametrize(("batch", "result"), list(zip(BATCHES, (66.0, 1566.0, 1566.0), strict=True)), ids=str)
def test_how_a_network_is_called(batch: Batch, result: float) -> None:
    positional, named = arguments(batch)
    assert float(Sum()(*positional, **named)) == result


def test_tensors_of_different_lengths() -> None:
    with pytest.raises(ValueError, match=r"have \[5, 6\] samples"):
        batch_size((X, Y[:5]))

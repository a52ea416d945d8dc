"""Networks of other types than float32: the same numbers as their float32 twin, written in their own types."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.errors import DivergedError
from ntt_cli.networks.precision import in_own_types, prepare_precision, rounded

HALVES = [torch.float16, torch.bfloat16]


class Net(nn.Module):
    """A buffer, batch norm, and casts in the forward pass as people write them."""

    scale: Tensor

    casts = False

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.tensor([0.5, 2.0, 1.0]))
        self.register_buffer("same", self.scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.casts:
            x = x.to(torch.bfloat16).half().to(dtype=torch.float16).bfloat16()
        return self.b(self.norm(self.a(x)).relu()) * self.scale


def network(dtype: torch.dtype = torch.float32, *, casts: bool = False) -> Net:
    torch.manual_seed(0)
    net = Net().train()
    net(torch.randn(64, 6))
    net.casts = casts
    net.eval().to(dtype)
    net.same = net.scale  # `to` makes two of it
    return net


X, Y = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3


@pytest.mark.parametrize("casts", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, casts: bool) -> None:
    net, twin = network(dtype, casts=casts), network(dtype).float()
    before = copy.deepcopy(net.state_dict())
    assert set(prepare_precision(copied := copy.deepcopy(net)).values()) == {dtype}
    assert copied.scale is copied.same
    assert type(copied).__name__ == "Net"
    for module in (copied, copy.deepcopy(copied)):
        assert torch.equal(module(X), twin(X))
    for options in ({"steps": 3, "batch_size": 16}, {"method": "magnitude"}):
        result = ntt.prune(net, X, sparsity=0.5, **options)
        expected = ntt.prune(twin, X, sparsity=0.5, **options)
        state = result.model.state_dict()
        for name, value in expected.model.state_dict().items():
            assert state[name].dtype is before[name].dtype
            if name in result.masks:
                assert torch.equal(result.masks[name], expected.masks[name])
                assert torch.equal(state[name] != 0, result.masks[name])
            assert torch.equal(state[name], value.to(state[name].dtype))
        agreement = ntt.evaluate(result, X, teacher=net).agreement
        assert agreement is not None
        assert agreement.logit_distance == pytest.approx(result.report.agreement.logit_distance, rel=1e-5)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_fine_tuning_writes_the_types_of_the_network() -> None:
    net, twin = network(torch.float16), network(torch.float16).float()
    options = {"epochs": 2, "batch_size": 16}
    trained, expected = ntt.finetune(net, (X, Y), **options), ntt.finetune(twin, (X, Y), **options)
    for name, value in expected.model.state_dict().items():
        found = trained.model.state_dict()[name]
        assert found.dtype is net.state_dict()[name].dtype
        assert torch.equal(found, value.to(found.dtype))
    assert trained.report.accuracy == expected.report.accuracy


def test_each_tensor_has_its_own_type() -> None:
    net = network()
    net.a.half()
    kinds = {name: value.dtype for name, value in net.state_dict().items()}
    result = ntt.prune(net, X, sparsity=0.5, steps=2, batch_size=16)
    assert {name: value.dtype for name, value in result.model.state_dict().items()} == kinds


def test_a_network_of_float64_computes_in_float64() -> None:
    net = network(torch.float64)
    prepare_precision(copied := copy.deepcopy(net))
    assert torch.equal(copied(X), net(X.double()))
    result = ntt.prune(net, X, sparsity=0.5, steps=2, batch_size=16)
    assert result.model.a.weight.dtype is torch.float64
    assert not torch.equal(result.model.a.bias, result.model.a.bias.float().double())
    assert torch.equal(result.model.a.weight != 0, result.masks["a.weight"])
    trained = ntt.finetune(result, (X, Y), epochs=1)
    assert ntt.evaluate(trained, (X, Y), teacher=net).accuracy is not None


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, pair: tuple[Tensor, Tensor], named: dict[str, Any], index: Tensor) -> Tensor:
        assert index.dtype is torch.int64
        return self.a(pair[0] + pair[1]) + self.a(named["rows"][0]) + index[:, None]


def test_nested_inputs_of_a_network_of_float64() -> None:
    net = Nested().double()
    prepare_precision(copied := copy.deepcopy(net))
    x, index = torch.randn(2, 4), torch.tensor([1, 2])
    wide = x.double()
    expected = net((wide, 2 * wide), {"rows": [wide]}, index)
    assert torch.equal(copied((x, 2 * x), named={"rows": [x]}, index=index), expected)


def test_other_networks_are_left_alone() -> None:
    net = network()
    assert prepare_precision(net) == {}
    assert type(net) is Net


@pytest.mark.parametrize("convert", [in_own_types, rounded])
def test_numbers_beyond_the_range_of_the_type(convert: Callable[..., dict[str, Tensor]]) -> None:
    with pytest.raises(DivergedError, match="a: holds numbers beyond the range of float16") as caught:
        convert({"a": torch.tensor([1.0, 1e6])}, {"a": torch.float16})
    assert "build the network in bfloat16 or float32" in caught.value.hint
    kept = convert({"a": torch.tensor([1.0, torch.inf])}, {"a": torch.float16})["a"]
    assert kept.tolist() == [1.0, torch.inf]

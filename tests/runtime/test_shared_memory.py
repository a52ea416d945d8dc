from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.errors import ModelError
from ntt_cli.runtime.shared_memory import tie_shared_parameters


def two(first: Tensor, second: Tensor, *, buffer: bool = False) -> nn.Module:
    module = nn.Module()
    module.first = nn.Parameter(first)
    if buffer:
        module.register_buffer("second", second)
    else:
        module.second = nn.Parameter(second)
    return module


def test_the_same_memory_is_one_parameter() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = nn.Parameter(network[0].weight.data)
    assert network[1].weight is not network[0].weight
    tie_shared_parameters(network, "model.py")
    assert network[1].weight is network[0].weight
    assert network[1].bias is not network[0].bias


def test_a_recurrent_layer_uses_what_it_is_tied_to() -> None:
    """It keeps a list of its weights besides, which must not hold the old one."""
    network = nn.Module()
    network.first, network.second = nn.RNN(4, 4), nn.RNN(4, 4)
    network.second.weight_hh_l0 = nn.Parameter(network.first.weight_hh_l0.data)
    tie_shared_parameters(network, "model.py")
    with torch.no_grad():
        network.first.weight_hh_l0.zero_()
    assert any(value is network.first.weight_hh_l0 for value in network.second._flat_weights)


BASE = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("build", "second"),
    [
        (lambda base: two(base, base.t()), "second [4, 3]"),
        (lambda base: two(base, base[:2]), "second [2, 4]"),
        (lambda base: two(base, base.flatten()), "second [12]"),
        (lambda base: two(base[:, :3], base[:, 2:]), "second [3, 2]"),
        (lambda base: two(base, base.view(torch.complex64)), "second [3, 2]"),
        (lambda base: two(base, base[0], buffer=True), "second [4]"),
    ],
    ids=["transposed", "part", "flat", "columns", "complex", "buffer"],
)
def test_other_ways_to_share_are_refused_by_name(build: Callable[[Tensor], nn.Module], second: str) -> None:
    with pytest.raises(ModelError) as caught:
        tie_shared_parameters(build(BASE.clone()), "model.py")
    assert caught.value.exit_code == 2
    assert caught.value.where == "model.py"
    assert caught.value.what.startswith("first [")
    assert caught.value.what.endswith(f"and {second} share memory, and are not one parameter")
    assert "use one nn.Parameter in both places" in caught.value.hint


def test_a_frozen_copy_in_the_same_memory_is_refused() -> None:
    module = two(BASE.clone(), BASE.clone())
    module.second = nn.Parameter(module.first.data, requires_grad=False)
    with pytest.raises(ModelError, match="share memory"):
        tie_shared_parameters(module, "model.py")


@pytest.mark.parametrize(
    "build",
    [
        lambda base: two(base[:, :2], base[:, 2:]),
        lambda base: two(base[0], base[1]),
        lambda base: two(base.flatten()[::2], base.flatten()[1::2]),
        lambda base: two(base, torch.zeros(3, 1).expand(3, 4)),
        lambda base: two(torch.empty(0), torch.empty(0)),
        lambda base: two(base, base.clone()),
        lambda base: nn.LSTM(3, 4),
    ],
    ids=["columns", "rows", "every other", "expanded", "empty", "copy", "lstm"],
)
def test_numbers_of_ones_own_are_left_alone(build: Callable[[Tensor], nn.Module]) -> None:
    module = build(BASE.clone())
    before = dict(module.named_parameters())
    tie_shared_parameters(module, "model.py")
    after = dict(module.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is p for name, p in before.items())


def test_fixed_values_may_share() -> None:
    module = nn.Module()
    module.register_buffer("one", BASE)
    module.register_buffer("part", BASE[1:])
    tie_shared_parameters(module, "model.py")

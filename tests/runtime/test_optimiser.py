from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ntt_cli.runtime.optimiser import advance, optimiser_tensors, restore_optimiser

Make = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
MAKERS: dict[str, Make] = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.1),
    "fused adam": lambda params: torch.optim.Adam(params, lr=0.1, fused=True),
    "fused adamw": lambda params: torch.optim.AdamW(params, lr=0.1, fused=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True),
}


def leaves() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    convolution = torch.randn(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last)
    return [p.requires_grad_() for p in (convolution, torch.randn(5, generator=generator), torch.ones(()))]


def steps(optimiser: torch.optim.Optimizer, params: list[torch.Tensor], numbers: range) -> None:
    for number in numbers:
        for p in params:
            p.grad = p.detach() * (number + 1)
        advance(optimiser)


@pytest.mark.parametrize("name", MAKERS)
def test_another_goes_on_as_the_first_would(name: str) -> None:
    params = leaves()
    first = MAKERS[name](params)
    steps(first, params, range(3))
    copies = [p.detach().clone().requires_grad_() for p in params]
    second = MAKERS[name](copies)
    restore_optimiser(second, {key: value.clone() for key, value in optimiser_tensors(first).items()})
    steps(first, params, range(3, 6))
    steps(second, copies, range(3, 6))
    assert all(torch.equal(p, copy) for p, copy in zip(params, copies, strict=True))
    assert optimiser_tensors(first).keys() == optimiser_tensors(second).keys()


def test_one_that_has_not_begun_remembers_nothing() -> None:
    optimiser = torch.optim.Adam(leaves(), lr=0.1)
    assert optimiser_tensors(optimiser) == {}
    restore_optimiser(optimiser, {})


def test_a_rate_beyond_the_numbers() -> None:
    params = leaves()
    optimiser = torch.optim.AdamW(params, lr=1e38)  # its fused kernel makes infinities instead
    with pytest.raises(FloatingPointError, match="learning rate"):
        steps(optimiser, params, range(1))


def test_another_failure_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no device")

    optimiser = torch.optim.SGD(leaves(), lr=0.1)
    monkeypatch.setattr(optimiser, "step", fail)
    with pytest.raises(RuntimeError, match="no device"):
        advance(optimiser)

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.kernels import exact as engine
from ntt_cli.kernels.exact import PASS_FLOPS, exact_kernel, kernel_flops
from ntt_cli.networks.functional import functional_model
from tests.kernel_cases import (
    MODEL_CASES,
    ModelCase,
    brute_force_kernel,
    every_model,
    random_masks,
    relative_error,
    snapshot,
    unchanged,
)

MLP = MODEL_CASES[0]
CONV = next(case for case in MODEL_CASES if case.name == "conv, wide and small")


@pytest.fixture(params=["the cheaper", "rows", "factors"])
def held_as(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Derivatives held in the way that costs less, or all of them in one of the two ways where that is possible."""
    if request.param != "the cheaper":
        monkeypatch.setattr(engine, "_factors_are_cheaper", lambda *_: request.param == "factors")
    return request.param


@every_model
@pytest.mark.usefixtures("held_as")
def test_equals_brute_force(case: ModelCase) -> None:
    model, x1, x2 = case.functional(), case.inputs(2, seed=1), case.inputs(3, seed=2)
    actual = exact_kernel(model.bind(), model.params, x1, x2)
    assert relative_error(actual, brute_force_kernel(case.module(), x1, x2)) < 1e-10


@every_model
def test_active_equals_brute_force(case: ModelCase) -> None:
    model, x1, x2 = case.functional(), case.inputs(2, seed=1), case.inputs(3, seed=2)
    masks = random_masks(model.params)
    actual = exact_kernel(model.bind(), model.params, x1, x2, active=masks)
    assert relative_error(actual, brute_force_kernel(case.module(), x1, x2, active=masks)) < 1e-10


def test_masks_may_name_some_parameters_and_keep_nothing() -> None:
    model, x = MLP.functional(), MLP.inputs(3)
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.params.items() if name.startswith("0.")}
    actual = exact_kernel(model.bind(), model.params, x, x, active=masks, memory_bytes=1)
    assert relative_error(actual, brute_force_kernel(MLP.module(), x, x, active=masks)) < 1e-10
    everything = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.params.items()}
    assert exact_kernel(model.bind(), model.params, x, x, active=everything).count_nonzero() == 0


@pytest.mark.parametrize("memory_bytes", [1, 3000, 10_000])
@pytest.mark.parametrize("symmetric", [False, True], ids=["two batches", "one batch"])
@pytest.mark.parametrize("case", [MLP, CONV], ids=lambda case: case.name)
def test_memory_limit_does_not_change_the_result(case: ModelCase, symmetric: bool, memory_bytes: int) -> None:
    model, x1 = case.functional(), case.inputs(5, seed=1)
    x2 = x1 if symmetric else case.inputs(3, seed=2)
    actual = exact_kernel(model.bind(), model.params, x1, x2, memory_bytes=memory_bytes)
    assert relative_error(actual, brute_force_kernel(case.module(), x1, x2)) < 1e-10


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each set of derivatives holds, as the engine makes them."""
    numbers: list[int] = []

    def spy(*args: object) -> object:
        derivatives = compute(*args)
        numbers.append(sum(t.numel() for d in derivatives for t in (d.grads, d.inputs) if t is not None))
        return derivatives

    compute = engine._derivatives
    monkeypatch.setattr(engine, "_derivatives", spy)
    return numbers


@pytest.mark.parametrize("memory_bytes", [4000, 16_000, 64_000])
@pytest.mark.usefixtures("held_as")
def test_memory_limit_is_kept(memory_bytes: int, held: list[int]) -> None:
    model, x1, x2 = MLP.functional(), MLP.inputs(9, seed=1), MLP.inputs(7, seed=2)
    exact_kernel(model.bind(), model.params, x1, x2, memory_bytes=memory_bytes)
    assert 0 < 2 * 8 * max(held) <= memory_bytes


@pytest.mark.parametrize(
    ("shape", "positions", "outputs", "embeds", "expected"),
    [
        pytest.param((300, 784), 1, 10, False, True, id="dense"),
        pytest.param((10, 100), 1, 10, False, True, id="dense, last"),
        pytest.param((512, 512, 3, 3), 16, 10, False, True, id="late convolution"),
        pytest.param((20, 1, 5, 5), 576, 10, False, False, id="first convolution"),
        pytest.param((768, 768), 197, 10, False, False, id="long sequence"),
        pytest.param((50_257, 768), 197, 10, True, True, id="words"),
        pytest.param((256, 768), 1024, 10, True, False, id="bytes"),
    ],
)
def test_layers_are_factored_where_that_is_cheaper(
    shape: tuple[int, ...], positions: int, outputs: int, embeds: bool, expected: bool
) -> None:
    assert engine._factors_are_cheaper(shape, positions, outputs, embeds) is expected


def test_the_rows_of_an_embedding_that_are_not_taken_cost_nothing(held: list[int]) -> None:
    def kernel(rows: int, x: Tensor) -> Tensor:
        module = nn.Sequential(nn.Embedding(rows, 8), nn.Flatten(), nn.Linear(24, 2)).double()
        torch.nn.init.ones_(module[0].weight)
        torch.nn.init.normal_(module[2].weight, generator=torch.Generator().manual_seed(0))
        model = functional_model(module)
        return exact_kernel(model.bind(), model.params, x, x)

    x = torch.tensor([[1, 2, 3], [3, 3, 5], [0, 4, 5], [0, 0, 0]])
    assert kernel(10_000, x).equal(kernel(60, x))
    assert held == [held[0]] * 2


@every_model
def test_symmetric_and_positive_semidefinite(case: ModelCase) -> None:
    model, x = case.functional(), case.inputs(3)
    kernel = exact_kernel(model.bind(), model.params, x, x)
    assert relative_error(kernel, exact_kernel(model.bind(), model.params, x, x.clone())) < 1e-14
    assert relative_error(kernel.permute(1, 0, 3, 2), kernel) < 1e-14
    eigenvalues = torch.linalg.eigvalsh(kernel.transpose(1, 2).flatten(2).flatten(0, 1))
    assert eigenvalues.min() > -1e-12 * eigenvalues.max()


@every_model
@pytest.mark.parametrize("gradients_enabled", [True, False], ids=["grad", "no_grad"])
def test_arguments_are_unchanged_and_the_result_has_no_graph(case: ModelCase, gradients_enabled: bool) -> None:
    model, x1, x2 = case.functional(), case.inputs(1, seed=1), case.inputs(2, seed=2)
    params = {name: p.requires_grad_() for name, p in model.params.items()}
    masks = dict(list(random_masks(params).items())[:1])
    before = snapshot(model, masks, x1, x2)
    with torch.set_grad_enabled(gradients_enabled):
        kernel = exact_kernel(model.bind(), params, x1, x2, active=masks)
    assert not kernel.requires_grad
    assert unchanged(before, snapshot(model, masks, x1, x2))


def test_network_without_parameters_in_its_output_has_a_zero_kernel() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    model = functional_model(Constant())
    kernel = exact_kernel(model.bind(), model.params, torch.ones(3, 2), torch.ones(1, 2))
    assert kernel.shape == (3, 1, 2, 2)
    assert kernel.count_nonzero() == 0


def test_single_precision_stays_single_precision() -> None:
    model, x = functional_model(MLP.module().float()), MLP.inputs(3).float()
    kernel = exact_kernel(model.bind(), model.params, x, x)
    assert kernel.dtype == torch.float32
    assert relative_error(kernel.double(), brute_force_kernel(MLP.module(), x.double(), x.double())) < 1e-5


@every_model
def test_operations_grow_with_pairs_of_samples(case: ModelCase) -> None:
    """By hand for pairs: `n (n + 1) / 2` of them, and `n` backward passes."""
    model, x = case.functional(), case.inputs(1)
    one, two, three = (kernel_flops(model.bind(), model.params, x, samples=samples, outputs=1) for samples in (1, 2, 3))
    pair = (three - two) - (two - one)
    assert one > PASS_FLOPS
    assert pair > 0
    assert two - one - 2 * pair == one - pair


def test_operations_of_a_perceptron_are_those_counted_by_hand() -> None:
    """Of 1 and 2 outputs: a pair of samples costs, for each layer, the cheaper of rows and factors, twice."""
    layer = nn.Linear(3, 2)
    model = functional_model(layer)
    count = kernel_flops(model.bind(), model.params, torch.ones(1, 3), samples=1, outputs=2)
    weight = min(2**2 * 6, 1 * (1 * (3 + 2 * 2) + 2**2 * 2))
    bias = 2**2 * 2
    assert count == 2 * (weight + bias) + 2 * (3 * 2 * 6 + PASS_FLOPS)

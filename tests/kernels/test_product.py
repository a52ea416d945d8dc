from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.kernels.product import (
    Outputs,
    OutputsAndProduct,
    compute_outputs,
    draw_probe,
    kernel_vector_product,
    outputs_and_pullback,
)
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Params
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
all_and_active = pytest.mark.parametrize("restricted", [False, True], ids=["all", "active"])


def probe_for(kernel: Tensor, seed: int = 300) -> Tensor:
    _, samples, _, outputs = kernel.shape
    return torch.randn(samples, outputs, generator=torch.Generator().manual_seed(seed), dtype=kernel.dtype)


def times(kernel: Tensor, probe: Tensor) -> Tensor:
    return torch.einsum("nmcd,md->nc", kernel, probe)


def outputs_alone(*arguments: Any, **options: Any) -> Outputs:
    return outputs_and_pullback(*arguments, **options)[0]


both_ways = pytest.mark.parametrize("ask", [compute_outputs, outputs_alone], ids=["alone", "with pullback"])
in_micro_batches = pytest.mark.parametrize("micro_batch", [None, 2], ids=["whole", "two and one"])


@every_model
@both_ways
@in_micro_batches
def test_outputs_without_a_probe_are_the_logits(
    case: ModelCase, ask: Callable[..., Outputs], micro_batch: int | None
) -> None:
    module, model, x1, x2 = case.module(), case.functional(), case.inputs(3, seed=1), case.inputs(3, seed=2)
    result = ask(model.bind(), model.params, x1, x2, None, execution=Execution(micro_batch))
    assert not isinstance(result, OutputsAndProduct)
    for logits, x in ((result.logits1, x1), (result.logits2, x2)):
        assert relative_error(logits, module(x)) < 1e-13
        assert not logits.requires_grad


@every_model
@all_and_active
@both_ways
@in_micro_batches
def test_equals_brute_force(
    case: ModelCase, restricted: bool, ask: Callable[..., Outputs], micro_batch: int | None
) -> None:
    module, model, x1, x2 = case.module(), case.functional(), case.inputs(3, seed=1), case.inputs(3, seed=2)
    masks = random_masks(model.params) if restricted else None
    kernel = brute_force_kernel(module, x1, x2, active=masks)
    probe = probe_for(kernel)
    result = ask(model.bind(), model.params, x1, x2, probe, active=masks, execution=Execution(micro_batch))
    assert relative_error(result.product, times(kernel, probe)) < 1e-10
    assert relative_error(result.logits1, module(x1)) < 1e-14
    assert relative_error(result.logits2, module(x2)) < 1e-14
    for tensor in (result.product, result.logits1, result.logits2):
        assert not tensor.requires_grad


@every_model
@all_and_active
@in_micro_batches
@pytest.mark.parametrize("keep_graph", [False, True], ids=["forward mode", "kept graph"])
def test_gradient_of_the_kernel_distance_equals_brute_force(
    case: ModelCase, restricted: bool, micro_batch: int | None, keep_graph: bool
) -> None:
    """`∂/∂θ ‖(K_s − K_t) v‖²`, through the matrix-free product and through whole Jacobians."""
    module, model, teacher = case.module(), case.functional(), case.functional(seed=7)
    x1, x2 = case.inputs(3, seed=1), case.inputs(3, seed=2)
    masks = random_masks(model.params) if restricted else None
    target = brute_force_kernel(case.module(seed=7), x1, x2)
    probe = probe_for(target)

    kernel = brute_force_kernel(module, x1, x2, active=masks, create_graph=True)
    expected = torch.autograd.grad(
        times(kernel - target, probe).square().sum(),
        [p for p in module.parameters() if p.requires_grad],
        materialize_grads=True,
    )

    wanted = kernel_vector_product(teacher.bind(), teacher.params, x1, x2, probe).product
    got, pullback = outputs_and_pullback(
        model.bind(), model.params, x1, x2, probe, active=masks, execution=Execution(micro_batch, keep_graph=keep_graph)
    )
    none = (torch.zeros_like(got.logits1), torch.zeros_like(got.logits2))
    actual = pullback(OutputsAndProduct(*none, product=2 * (got.product - wanted)))

    assert list(actual) == list(model.params)
    flat = [torch.cat([grad.flatten() for grad in grads]) for grads in (actual.values(), expected)]
    assert flat[1].norm() > 0
    assert relative_error(*flat) < 1e-10


@pytest.mark.parametrize("with_probe", [False, True], ids=["logits alone", "with product"])
@pytest.mark.parametrize("keep_graph", [False, True], ids=["forward mode", "kept graph"])
@in_micro_batches
def test_logits_can_be_differentiated_too(with_probe: bool, keep_graph: bool, micro_batch: int | None) -> None:
    """Of `Σ f(x1) + ‖f(x2)‖²`."""
    module, model, x1, x2 = MLP.module(), MLP.functional(), MLP.inputs(3, seed=1), MLP.inputs(4, seed=2)
    probe = draw(4, 3, seed=0) if with_probe else None
    result, pullback = outputs_and_pullback(
        model.bind(), model.params, x1, x2, probe, execution=Execution(micro_batch, keep_graph=keep_graph)
    )
    gradients = {"logits1": torch.ones_like(result.logits1), "logits2": 2 * result.logits2}
    none = torch.zeros_like(result.logits1)
    actual = pullback(OutputsAndProduct(**gradients, product=none) if with_probe else Outputs(**gradients))
    expected = torch.autograd.grad(module(x1).sum() + module(x2).square().sum(), list(module.parameters()))
    for got, wanted in zip(actual.values(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keep_graph", [False, True], ids=["forward mode", "kept graph"])
def test_a_network_linear_in_its_parameters_has_a_constant_kernel(keep_graph: bool) -> None:
    model = functional_model(nn.Linear(5, 3).double())
    x1, x2, probe = MLP.inputs(3, seed=1), MLP.inputs(4, seed=2), draw(4, 3, seed=0)
    result, pullback = outputs_and_pullback(
        model.bind(), model.params, x1, x2, probe, execution=Execution(keep_graph=keep_graph)
    )
    none = torch.zeros_like(result.logits1), torch.zeros_like(result.logits2)
    assert not any(g.any() for g in pullback(OutputsAndProduct(*none, product=torch.ones(3, 3).double())).values())


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_no_more_samples_than_a_micro_batch_go_through_the_network_at_once(micro_batch: int) -> None:
    model, x1, x2 = MLP.functional(), MLP.inputs(5, seed=1), MLP.inputs(4, seed=2)
    seen = []

    def apply(params: Params, x: Tensor) -> Tensor:
        seen.append(len(x))
        return model.bind()(params, x)

    for probe in (None, draw(4, 3, seed=0)):
        result, pullback = outputs_and_pullback(apply, model.params, x1, x2, probe, execution=Execution(micro_batch))
        pullback(result)
        compute_outputs(apply, model.params, x1, x2, probe, execution=Execution(micro_batch))
    assert max(seen) == micro_batch


@pytest.mark.parametrize(("keep_graph", "micro_batch", "passes"), [(False, None, 3), (True, None, 2), (True, 3, 8)])
def test_a_kept_graph_saves_a_pass(keep_graph: bool, micro_batch: int | None, passes: int) -> None:
    model, x1, x2 = MLP.functional(), MLP.inputs(4, seed=1), MLP.inputs(4, seed=2)
    seen = []

    def apply(params: Params, x: Tensor) -> Tensor:
        seen.append(len(x))
        return model.bind()(params, x)

    probe = draw(4, 3, seed=0)
    result, pullback = outputs_and_pullback(
        apply, model.params, x1, x2, probe, execution=Execution(micro_batch, keep_graph=keep_graph)
    )
    pullback(result)
    assert len(seen) == passes


def test_probes_estimate_the_squared_frobenius_distance_without_bias() -> None:
    student, teacher = MLP.functional(), MLP.functional(seed=7)
    x1, x2 = MLP.inputs(4, seed=1), MLP.inputs(5, seed=2)
    exact = (brute_force_kernel(MLP.module(), x1, x2) - brute_force_kernel(MLP.module(seed=7), x1, x2)).square().sum()
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(150):
        probe = draw_probe((5, 3), like=x1, generator=generator)
        ours, theirs = (
            kernel_vector_product(model.bind(), model.params, x1, x2, probe).product for model in (student, teacher)
        )
        estimates.append((ours - theirs).square().sum())
    sample = torch.stack(estimates)
    standard_error = sample.std() / len(sample) ** 0.5
    assert standard_error < 0.2 * exact
    assert (sample.mean() - exact).abs() < 3 * standard_error


@every_model
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_arguments_are_unchanged(case: ModelCase, micro_batch: int | None) -> None:
    model, x1, x2 = case.functional(), case.inputs(2, seed=1), case.inputs(2, seed=2)
    params = {name: p.requires_grad_() for name, p in model.params.items()}
    masks = random_masks(params)
    probe = torch.ones_like(model.bind()(params, x2).detach())
    before = snapshot(model, masks, x1, x2, probe)
    result, pullback = outputs_and_pullback(
        model.bind(), params, x1, x2, probe, active=masks, execution=Execution(micro_batch)
    )
    pullback(result)
    kernel_vector_product(model.bind(), params, x1, x2, probe, active=masks, execution=Execution(micro_batch))
    assert unchanged(before, snapshot(model, masks, x1, x2, probe))


def draw(samples: int, outputs: int, *, seed: int) -> Tensor:
    like = torch.zeros(1, dtype=torch.float64)
    return draw_probe((samples, outputs), like=like, generator=torch.Generator().manual_seed(seed))


def test_probe_comes_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    probe = draw(6, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (probe.shape, probe.dtype) == ((6, 3), torch.float64)
    assert torch.equal(probe, draw(6, 3, seed=1))
    assert not torch.equal(probe, draw(6, 3, seed=2))


def test_probe_is_standard_normal() -> None:
    probe = draw(200, 200, seed=0)
    assert probe.mean().abs() < 3 / 200
    assert (probe.square().mean() - 1).abs() < 3 * 2**0.5 / 200

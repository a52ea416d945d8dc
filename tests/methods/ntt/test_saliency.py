from __future__ import annotations

import pytest
import torch
from torch import nn

from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.ntt.saliency import exponent_within_layers, logit_sensitivities, saliency_scores
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution
from tests.kernel_cases import MODEL_CASES, ModelCase, every_model, jacobian, random_masks, snapshot, unchanged

MLP = MODEL_CASES[0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("exponent", "expected"), [(1 / 4, 2.0 * 16), (1 / 16, 2.0 * 2)])
def test_saliency_by_hand(exponent: float, expected: float) -> None:
    params = {"a": torch.tensor([[-2.0, 1.0]], requires_grad=True), "b": torch.tensor([3.0])}
    sensitivities = {"a": torch.tensor([[2.0**16, 0.0]]), "b": torch.tensor([1.0])}
    scores = saliency_scores(params, sensitivities, ["a"], exponent=exponent)
    assert {name: score.tolist() for name, score in scores.items()} == {"a": [[expected, 0.0]]}
    assert not scores["a"].requires_grad


@pytest.mark.parametrize("layers", [2, 3, 5, 10])
def test_within_layers_a_path_counts_by_its_geometric_mean(layers: int) -> None:
    """A chain of single units: a weight scores its magnitude times the geometric mean of the others'."""
    size = torch.rand(layers, generator=seeded()).double() + 0.5
    module = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(layers))).double()
    for layer, value in zip(module, size, strict=True):
        nn.init.constant_(layer.weight, float(value))
    model = functional_model(module)
    sensitivities = logit_sensitivities(
        model.bind(), model.params, [torch.ones(1, 1).double()], outputs=1, generator=seeded()
    )
    probe = torch.randn(1, 1, generator=seeded(), dtype=torch.float64)
    exponent = exponent_within_layers(layers)
    scores = saliency_scores(model.params, sensitivities, model.params, exponent=exponent)
    for i, score in enumerate(scores.values()):
        others = (size.prod() / size[i]) ** (1 / (layers - 1))
        torch.testing.assert_close(score.view(()), size[i] * others * probe.abs().view(()) ** (2 * exponent))


def test_one_layer_has_an_exponent_too() -> None:
    assert exponent_within_layers(1) == 1 / 2


@every_model
@pytest.mark.parametrize("micro_batch", [None, 2], ids=["whole", "micro-batches of two"])
def test_sensitivities_equal_brute_force_with_the_same_probes(case: ModelCase, micro_batch: int | None) -> None:
    module, model, batches = case.module(), case.functional(), [case.inputs(3, seed=1), case.inputs(2, seed=2)]
    outputs = module(batches[0]).shape[1]
    actual = logit_sensitivities(
        model.bind(), model.params, batches, outputs=outputs, generator=seeded(), execution=Execution(micro_batch)
    )
    generator = seeded()
    expected = {name: torch.zeros_like(p) for name, p in model.params.items()}
    for x in batches:
        probe = torch.randn(module(x).shape, generator=generator, dtype=torch.float64)
        for name, rows in jacobian(module, x).items():
            expected[name] += torch.einsum("nc,ncp->p", probe, rows).square().view_as(expected[name]) / 5
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-12)


def test_many_probes_estimate_the_diagonal_of_the_jacobian_squared() -> None:
    """A squared Gaussian has a relative deviation of `sqrt(2)`."""
    samples, probes = 3, 1000
    module, model, x = MLP.module(), MLP.functional(), MLP.inputs(samples)
    estimate = logit_sensitivities(model.bind(), model.params, [x] * probes, outputs=3, generator=seeded())
    ratios = []
    for name, rows in jacobian(module, x).items():
        exact = rows.square().sum(dim=(0, 1)) / samples
        alive = exact > 0
        assert torch.equal(estimate[name].flatten() > 0, alive)
        ratios.append(estimate[name].flatten()[alive] / exact[alive])
    standard_error = (2 / probes) ** 0.5
    assert (torch.cat(ratios) - 1).abs().max() < 4 * standard_error
    assert (torch.cat(ratios).mean() - 1).abs() < standard_error


def test_a_weight_on_a_path_that_leads_nowhere_scores_exactly_zero() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    params = functional_model(module).params
    params["2.weight"][:, 1] = 0
    apply = functional_model(module).bind()
    sensitivities = logit_sensitivities(apply, params, [torch.ones(8, 3).double()], outputs=2, generator=seeded())
    score = saliency_scores(params, sensitivities, ["0.weight"], exponent=1 / 4)["0.weight"]
    assert torch.equal(score[1], torch.zeros(3).double())
    assert (score[[0, 2, 3]] > 0).all()


def test_a_pruned_weight_can_return_at_its_dense_value() -> None:
    model, x = MLP.functional(), MLP.inputs(4)
    masks = random_masks(model.params)
    sensitivities = logit_sensitivities(
        model.bind(), apply_masks(model.params, masks), [x], outputs=3, generator=seeded()
    )
    score = saliency_scores(model.params, sensitivities, ["0.weight"], exponent=1 / 4)["0.weight"]
    assert (score[~masks["0.weight"]] > 0).any()


@every_model
def test_sensitivities_leave_everything_as_it_was(case: ModelCase) -> None:
    model, x = case.functional(), case.inputs(2)
    before = snapshot(model, {}, x)
    outputs = case.module()(x).shape[1]
    with torch.no_grad():
        result = logit_sensitivities(model.bind(), model.params, [x], outputs=outputs, generator=seeded())
    assert unchanged(before, snapshot(model, {}, x))
    assert not any(value.requires_grad for value in result.values())

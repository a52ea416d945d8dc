from __future__ import annotations

import torch
from torch import nn

import ntt_cli as ntt
from ntt_cli.methods.ntk_sap import ntk_sap_scores
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.initialise import reinitialise
from tests.kernel_cases import jacobian, random_masks


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_the_definition_by_finite_differences() -> None:
    model = functional_model(network())
    masks = random_masks(model.params)
    draws = [
        (reinitialise(model.params, generator=seeded(seed)), torch.randn(5, 3, generator=seeded(seed)).double())
        for seed in (1, 2)
    ]
    scores = ntk_sap_scores(model.bind(), masks, draws, perturbation=0.1, generator=seeded())
    generator = seeded()
    shifts = [
        {name: torch.randn(mask.shape, generator=generator).double() for name, mask in masks.items()} for _ in draws
    ]

    def sensitivity(numbers: dict[str, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for (params, x), shift in zip(draws, shifts, strict=True):
            here = params | {name: params[name] * numbers[name] for name in masks}
            there = params | {name: (params[name] + 0.1 * shift[name]) * numbers[name] for name in masks}
            total += (model.bind()(here, x) - model.bind()(there, x)).square().sum(dim=1).mean()
        return total

    numbers = {name: mask.double() for name, mask in masks.items()}
    for name, mask in masks.items():
        for index in range(mask.numel()):
            sides = []
            for sign in (1, -1):
                moved = numbers[name].clone()
                moved.view(-1)[index] += sign * 1e-5
                sides.append(sensitivity(numbers | {name: moved}))
            expected = abs(float(sides[0] - sides[1])) / 2e-5 * float(mask.view(-1)[index])
            torch.testing.assert_close(float(scores[name].view(-1)[index]), expected, rtol=1e-5, atol=1e-7)


def test_small_perturbations_measure_the_trace_of_the_kernel() -> None:
    """`E‖J Δθ‖² = ε² tr(J Jᵀ)`: the sum of `m ∂/∂m` is twice that for a linear network, in which both are quadratic."""
    model = functional_model(nn.Sequential(nn.Linear(3, 2, bias=False)).double())
    masks = {"0.weight": torch.ones(2, 3, dtype=torch.bool)}
    x = torch.randn(4, 3, generator=seeded()).double()
    draws = [(model.params, x)] * 1000
    scores = ntk_sap_scores(model.bind(), masks, draws, perturbation=1e-3, generator=seeded())
    trace = jacobian(model.module, x)["0.weight"].square().sum() / len(x)
    assert abs(float(scores["0.weight"].sum()) / 1000 / 1e-6 / (2 * float(trace)) - 1) < 0.1


def test_pruned_entries_do_not_return() -> None:
    model = functional_model(network())
    masks = random_masks(model.params)
    scores = ntk_sap_scores(model.bind(), masks, [(model.params, torch.ones(2, 3).double())], generator=seeded())
    assert all((scores[name][~mask] == 0).all() for name, mask in masks.items())


def test_redrawn_weights_have_the_moments_of_the_first_and_constants_stay() -> None:
    params = {"w": 3 + 0.5 * torch.rand(200, 100, generator=seeded()), "b": torch.full((7,), 0.25)}
    state = torch.get_rng_state()
    drawn = reinitialise(params, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn["b"], params["b"])
    assert abs(float(drawn["w"].mean() - params["w"].mean())) < 0.01
    assert abs(float(drawn["w"].std() / params["w"].std()) - 1) < 0.02
    assert not torch.equal(drawn["w"], reinitialise(params, generator=seeded(2))["w"])


def test_batch_norm_has_the_statistics_of_the_redrawn_weights_not_the_teachers() -> None:
    masks = []
    for mean, variance in ((0.0, 1.0), (7.0, 1e-4)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))
        assert isinstance(net[1].running_mean, torch.Tensor)
        assert isinstance(net[1].running_var, torch.Tensor)
        net[1].running_mean.fill_(mean)
        net[1].running_var.fill_(variance)
        masks.append(ntt.prune(net, torch.randn(32, 6, generator=seeded()), sparsity=0.5, method="ntk-sap").masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])

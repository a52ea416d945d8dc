from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.grasp import grasp_scores
from ntt_cli.methods.logit_snip import logit_snip_scores
from ntt_cli.methods.snip import Batch, snip_scores
from ntt_cli.networks.functional import functional_model
from ntt_cli.tensors import Params
from tests.kernel_cases import MODEL_CASES, ModelCase, every_model, random_masks, snapshot, unchanged

MLP = MODEL_CASES[0]
STEP = 1e-4


def smooth(seed: int = 0) -> nn.Sequential:
    """Small enough to move each weight by itself, and without kinks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches() -> list[Batch]:
    """Of unequal sizes, so that a mean of means is not the mean."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    return [(x[:5], labels[:5]), (x[5:], labels[5:])]


def differences(function: Callable[[Params], Tensor], params: Params, name: str) -> Tensor:
    """`∂ function / ∂ params[name]` by central differences."""
    result = torch.zeros_like(params[name])
    for index in range(result.numel()):
        sides = []
        for sign in (1, -1):
            moved = params[name].clone()
            moved.view(-1)[index] += sign * STEP
            sides.append(function(params | {name: moved}))
        result.view(-1)[index] = (sides[0] - sides[1]) / (2 * STEP)
    return result


NAMES = ["0.weight", "2.weight"]


@pytest.mark.parametrize("masked", [False, True])
def test_snip_by_finite_differences(masked: bool) -> None:
    model = functional_model(smooth())
    params = apply_masks(model.params, random_masks(model.params)) if masked else model.params
    x, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    scores = snip_scores(model.bind(), params, NAMES, batches())
    assert list(scores) == NAMES
    for name in NAMES:
        slope = differences(lambda at: cross_entropy(model.bind()(at, x), labels), params, name)
        torch.testing.assert_close(scores[name], (params[name] * slope).abs(), rtol=1e-6, atol=1e-10)


def test_logit_snip_by_finite_differences() -> None:
    model = functional_model(smooth())
    x = torch.cat([x for x, _ in batches()])
    scores = logit_snip_scores(model.bind(), model.params, NAMES, (x for x, _ in batches()))
    for name in NAMES:
        slope = differences(lambda at: model.bind()(at, x).square().sum(dim=1).mean() / 2, model.params, name)
        torch.testing.assert_close(scores[name], (model.params[name] * slope).abs(), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_by_finite_differences_of_the_gradients_norm(temperature: float) -> None:
    """`2 H g` is the gradient of `‖g‖²`."""
    model = functional_model(smooth())
    x, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def squared_gradient(at: Params) -> Tensor:
        leaves = {name: p.detach().requires_grad_() for name, p in at.items()}
        loss = cross_entropy(model.bind()(leaves, x) / temperature, labels)
        gradients = torch.autograd.grad(loss, [leaves[name] for name in NAMES])
        return sum((g.square().sum() for g in gradients), torch.zeros(()))

    scores = grasp_scores(model.bind(), model.params, NAMES, batches(), temperature=temperature)
    for name in NAMES:
        slope = differences(squared_gradient, model.params, name)
        expected = model.params[name] * slope / 2
        torch.testing.assert_close(scores[name], expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))
    assert min(float(score.min()) for score in scores.values()) < 0 < max(float(s.max()) for s in scores.values())


@every_model
def test_every_network_is_scored_and_left_as_it_was(case: ModelCase) -> None:
    model, x = case.functional(), case.inputs(2)
    names = [name for name, p in model.params.items() if p.dim() > 1]
    labels = torch.zeros(2, dtype=torch.long)
    before = snapshot(model, {}, x)
    with torch.no_grad():
        results = [
            snip_scores(model.bind(), model.params, names, [(x, labels)]),
            logit_snip_scores(model.bind(), model.params, names, [x]),
            grasp_scores(model.bind(), model.params, names, [(x, labels)]),
        ]
    assert unchanged(before, snapshot(model, {}, x))
    for scores in results:
        assert {name: score.shape for name, score in scores.items()} == {
            name: model.params[name].shape for name in names
        }
        assert all(score.isfinite().all() and not score.requires_grad for score in scores.values())

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.layer_calls import RecordedPass, record_calls
from tests.kernel_cases import MODEL_CASES, ModelCase, every_model

CASES = {case.name: case for case in MODEL_CASES}


def record(case: ModelCase) -> RecordedPass:
    model = case.functional()
    return record_calls(model.bind(), {name: p.requires_grad_() for name, p in model.params.items()}, case.inputs(1))


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("mlp", {"0.weight": [1], "2.weight": [1], "4.weight": [1]}),
        ("conv, wide and small", {"0.weight": [4], "4.weight": [1]}),
        ("conv, grouped and depthwise", {"5.weight": [1]}),
        ("conv, circular and transposed", {"0.weight": [9], "4.weight": [1]}),
        ("residual", {"stem.weight": [16], "inner.weight": [16], "head.weight": [1]}),
        ("attention", {"qkv.weight": [3], "head.weight": [1]}),
        ("used twice", {"layer.weight": [3, 1], "head.weight": [1]}),
        ("embedding", {"0.weight": [4], "2.weight": [1], "4.weight": [1]}),
        ("embedded twice", {"embedding.weight": [4, 1], "mix.weight": [4, 1], "head.weight": [1]}),
        ("tied embedding", {"mix.weight": [1]}),
        ("recurrent", {"head.weight": [1]}),
        ("unused", {"body.weight": [1], "head.weight": [1]}),
    ],
)
def test_weights_that_act_only_through_layers(name: str, positions: dict[str, list[int]]) -> None:
    calls = record(CASES[name]).calls
    assert {weight: [call.positions for call in made] for weight, made in calls.items() if made} == positions


@every_model
def test_calls_give_the_gradient(case: ModelCase) -> None:
    model = case.functional()
    leaves = {name: p.requires_grad_() for name, p in model.params.items()}
    recorded = record_calls(model.bind(), leaves, case.inputs(1))
    logit = recorded.logits.square().sum()
    for name, calls in recorded.calls.items():
        (expected,) = torch.autograd.grad(logit, leaves[name], retain_graph=True, materialize_grads=True)
        actual = torch.zeros_like(expected)
        for call in calls:
            (grad,) = torch.autograd.grad(logit, call.output, retain_graph=True)
            if call.embeds:
                taken = call.inputs() >= 0
                actual.index_add_(0, call.inputs()[taken], call.arrange(grad)[taken])
            else:
                actual += (call.arrange(grad).T @ call.inputs()).view_as(actual)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


class Dividing(nn.Embedding):
    """Its gradient is divided by how often the batch has a row, in a call that no setting of the layer reaches."""

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, scale_grad_by_freq=True)


def test_an_embedding_that_divides_its_gradient_is_no_layer_call() -> None:
    model = functional_model(nn.Sequential(Dividing(4, 3), nn.Flatten()))
    leaves = {name: p.requires_grad_() for name, p in model.params.items()}
    assert not any(record_calls(model.bind(), leaves, torch.tensor([[1, 1]])).calls.values())


def test_a_layer_that_divides_its_gradient_has_the_whole_derivative() -> None:
    model = functional_model(nn.Sequential(nn.Embedding(4, 3, scale_grad_by_freq=True), nn.Flatten()))
    leaves = {name: p.requires_grad_() for name, p in model.params.items()}
    (grad,) = torch.autograd.grad(model.bind()(leaves, torch.tensor([[1, 1, 2]])).sum(), [leaves["0.weight"]])
    assert grad.tolist() == [[0.0] * 3, [2.0] * 3, [1.0] * 3, [0.0] * 3]

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp, vjp

from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.second_order import twice_differentiable
from tests.kernel_cases import MODEL_CASES, ModelCase, every_model

CASES = {case.name: case for case in MODEL_CASES}


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        scale = torch.tensor(2.0)
        self.register_buffer("scale", scale)
        self.register_buffer("twin", scale)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1)) * self.scale * self.twin


@every_model
def test_apply_is_the_module_in_evaluation_mode(case: ModelCase) -> None:
    module, x = case.module(), case.inputs(3)
    model = functional_model(module.train())
    torch.testing.assert_close(model.bind()(model.params, x), module.eval()(x), rtol=1e-12, atol=1e-14)


@every_model
def test_values_together_are_the_state_dict(case: ModelCase) -> None:
    module, model = case.module(), case.functional()
    state = model.state_dict(model.params, model.buffers)
    assert list(state) == list(module.state_dict())
    module.load_state_dict({name: torch.zeros_like(value) for name, value in state.items()})
    module.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in case.module().state_dict().items())


def test_tied_tensors_are_one_value_under_each_of_their_names() -> None:
    module = TiedLanguageModel()
    model = functional_model(module)
    assert set(model.params) == {"embedding.weight"}
    assert set(model.buffers) == {"scale", "scratch"}
    params = {"embedding.weight": torch.arange(28.0).view(7, 4)}
    buffers = model.buffers | {"scale": torch.tensor(3.0)}
    state = model.state_dict(params, buffers)
    assert set(state) == {"embedding.weight", "head.weight", "scale", "twin"}
    assert torch.equal(state["head.weight"], params["embedding.weight"])
    tokens = torch.tensor([[0, 5], [1, 1]])
    expected = model.bind(buffers)(params, tokens)
    module.load_state_dict(state)
    torch.testing.assert_close(module(tokens), expected)


def test_frozen_parameters_are_buffers() -> None:
    case = CASES["unused"]
    model = case.functional()
    assert set(model.buffers) == {"frozen.weight", "frozen.bias"}
    assert not set(model.buffers) & set(model.params)
    assert not any(value.requires_grad for value in [*model.params.values(), *model.buffers.values()])


def test_the_module_is_left_as_it_was_and_apart() -> None:
    module = CASES["batch normalisation"].module().train()
    x = CASES["batch normalisation"].inputs(4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = functional_model(module)
    logits = model.bind()(model.params, x)
    assert all(layer.training for layer in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        for p in [*module.parameters(), *module.buffers()]:
            p.zero_()
    assert torch.equal(model.bind()(model.params, x), logits)


def test_other_buffers_can_be_bound() -> None:
    case = CASES["batch normalisation"]
    model, x = case.functional(), case.inputs(3)
    shifted = model.buffers | {"6.running_mean": model.buffers["6.running_mean"] + 1}
    assert not torch.equal(model.bind(shifted)(model.params, x), model.bind()(model.params, x))
    module = case.module()
    module.get_buffer("6.running_mean").add_(1)
    torch.testing.assert_close(model.bind(shifted)(model.params, x), module(x))


def normalised() -> nn.Sequential:
    """Batch norms with other running statistics than any batch has, and a Dropout between them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, 4)
        network = nn.Sequential(*layers, nn.BatchNorm1d(4)).double()
    for layer in (network[1], network[5]):
        layer.running_mean.fill_(2)
        layer.running_var.fill_(3)
    return network


def test_batch_statistics_are_those_of_training_without_dropout() -> None:
    network, x = normalised(), torch.randn(6, 1, 4, 4, dtype=torch.float64)
    model = functional_model(network)
    before = {name: value.clone() for name, value in model.buffers.items()}
    leaves = {name: p.requires_grad_() for name, p in model.params.items()}
    found = model.bind(batch_statistics=True)(leaves, x)
    network.train()[3].eval()
    expected = network(x)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), list(leaves.values()))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), list(network.parameters())))
    assert all(torch.equal(value, before[name]) for name, value in model.buffers.items())


def test_after_batch_statistics_the_running_ones_count_again() -> None:
    network, x = normalised().eval(), torch.randn(6, 1, 4, 4, dtype=torch.float64)
    model = functional_model(network)
    model.bind(batch_statistics=True)(model.params, x)
    torch.testing.assert_close(model.bind()(model.params, x), network(x))


def test_one_sample_is_normalised_by_running_statistics() -> None:
    network, x = normalised().eval(), torch.randn(1, 1, 4, 4, dtype=torch.float64)
    model = functional_model(network)
    torch.testing.assert_close(model.bind(batch_statistics=True)(model.params, x), network(x))


@pytest.mark.parametrize("name", ["attention", "sequence first"])
def test_attention_is_differentiable_in_forward_mode(name: str) -> None:
    """`⟨c, J t⟩ = ⟨Jᵀ c, t⟩`."""
    model, x = CASES[name].functional(), CASES[name].inputs(3)
    generator = torch.Generator().manual_seed(0)
    tangents = {key: torch.randn(p.shape, generator=generator, dtype=torch.float64) for key, p in model.params.items()}
    with twice_differentiable():
        logits, tangent = jvp(lambda params: model.bind()(params, x), (model.params,), (tangents,))
    cotangent = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    (gradients,) = vjp(lambda params: model.bind()(params, x), model.params)[1](cotangent)
    expected = sum((gradients[key] * tangents[key]).sum() for key in tangents)
    torch.testing.assert_close((cotangent * tangent).sum(), expected)


def attention_settings() -> list[bool]:
    cuda = torch.backends.cuda
    return [
        torch.backends.mha.get_fastpath_enabled(),
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    ]


@pytest.mark.parametrize("fastpath", [False, True])
def test_global_settings_hold_only_inside(fastpath: bool) -> None:
    seen: list[list[bool]] = []

    class Witness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(attention_settings())
            if len(x) == 0:
                raise ValueError("no samples")
            return x

    apply = functional_model(Witness()).bind()
    default = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fastpath)
    try:
        before = attention_settings()
        with twice_differentiable():
            apply({}, torch.zeros(1, 1))
        assert attention_settings() == before
        with pytest.raises(ValueError, match="no samples"), twice_differentiable():
            apply({}, torch.zeros(0, 1))
        assert attention_settings() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(default)
    assert seen == [[False, False, False, True, False]] * 2


def test_the_private_copy_holds_no_second_set_of_values() -> None:
    model = functional_model(TiedLanguageModel())
    shapes = {name: p.shape for name, p in model.module.named_parameters()}
    assert shapes == {name: p.shape for name, p in model.params.items()}
    assert all(p.untyped_storage().nbytes() == p.element_size() for p in model.module.parameters())


class TwoNames(nn.Module):
    """A layer under two names, whose weight a second layer has as well."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(3, 3)
        self.again = self.step
        self.back = nn.Linear(3, 3, bias=False)
        self.back.weight = self.step.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.back(torch.tanh(self.again(self.step(x))))


def test_a_layer_of_two_names_stays_tied() -> None:
    module = TwoNames()
    model, x = functional_model(module), torch.randn(4, 3)
    expected = module(x)
    for _ in range(3):
        torch.testing.assert_close(model.bind()(model.params, x), expected)
        assert model.state_dict(model.params, model.buffers).keys() == module.state_dict().keys()
    assert [name for name, _ in model.module.named_parameters()] == ["step.weight", "step.bias"]


class Moving(nn.Module):
    """Writes into its buffers in each pass, and returns a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("out", torch.zeros(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.out[: len(x)] = self.inner(x) * self.passes
        return self.out[: len(x)]


def test_a_pass_that_writes_into_buffers_is_a_function() -> None:
    model, x = functional_model(Moving()), torch.ones(4, 3)
    apply = model.bind()
    first, second = apply(model.params, x), apply(model.params, 2 * x)
    assert torch.equal(first, nn.functional.linear(x, *model.params.values()))
    assert torch.equal(second, nn.functional.linear(2 * x, *model.params.values()))
    assert (int(model.buffers["passes"]), float(model.buffers["out"].abs().sum())) == (0, 0)
    _, pullback = vjp(lambda params: apply(params, x), model.params)
    (gradients,) = pullback(torch.ones(4, 2))
    assert gradients["inner.weight"].tolist() == [[4, 4, 4], [4, 4, 4]]
    tangents = {name: torch.ones_like(p) for name, p in model.params.items()}
    assert jvp(lambda params: apply(params, x), (model.params,), (tangents,))[1].tolist() == [[4, 4]] * 4

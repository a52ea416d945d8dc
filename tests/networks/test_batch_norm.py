from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.kernels.product import kernel_vector_product
from ntt_cli.networks.batch_norm import (
    coupling_layers,
    estimate_statistics,
    has_batch_norm,
    has_untrained_statistics,
    with_variances_of_at_least,
)
from ntt_cli.networks.functional import FunctionalModel, functional_model
from tests.kernel_cases import snapshot, unchanged


def build() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def batches(sizes: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [5 + 2 * torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes]


def mean_and_variance(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Averages over batches of the mean and of the unbiased variance."""
    variances = [(x - x.mean(0)).square().sum(0) / (len(x) - 1) for x in values]
    return torch.stack([x.mean(0) for x in values]).mean(0), torch.stack(variances).mean(0)


def estimate(model: FunctionalModel, data: list[Tensor]) -> dict[str, Tensor]:
    return estimate_statistics(model, model.params, model.buffers, data)


def test_every_layer_averages_over_batches_normalised_by_themselves() -> None:
    """Dropout is off: with it, what the second layer sees would be another."""
    model, data = functional_model(build()), batches([4, 6, 5])
    result = estimate(model, data)
    mean, variance = mean_and_variance(data)
    torch.testing.assert_close(result["0.running_mean"], mean)
    torch.testing.assert_close(result["0.running_var"], variance)
    normalised = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in data]
    mean, variance = mean_and_variance([x @ model.params["2.weight"].T + model.params["2.bias"] for x in normalised])
    torch.testing.assert_close(result["3.running_mean"], mean)
    torch.testing.assert_close(result["3.running_var"], variance)


def test_earlier_statistics_do_not_count() -> None:
    model, data = functional_model(build()), batches([4, 6])
    once = estimate(model, data)
    twice = estimate_statistics(model, model.params, once, data)
    assert all(torch.equal(twice[name], once[name]) for name in once)


def test_variances_are_bounded_below_by_the_references() -> None:
    buffers = {
        "a.running_var": torch.tensor([0.0, 0.3]),
        "running_var": torch.tensor([9.0]),
        "a.running_mean": torch.zeros(2),
    }
    reference = {
        "a.running_var": torch.tensor([2.0, 2.0]),
        "running_var": torch.tensor([9.0]),
        "a.running_mean": torch.ones(2),
    }
    bounded = with_variances_of_at_least(0.1, buffers, reference)
    torch.testing.assert_close(bounded["a.running_var"], torch.tensor([0.2, 0.3]))
    assert bounded["running_var"] is not buffers["running_var"]
    assert bounded["running_var"].tolist() == [9.0]
    assert bounded["a.running_mean"] is buffers["a.running_mean"]
    assert buffers["a.running_var"].tolist()[0] == 0


def test_a_batch_of_one_sample_has_no_variance_and_is_left_out() -> None:
    model, data = functional_model(build()), batches([4, 6, 1])
    with_it, without = estimate(model, data), estimate(model, data[:2])
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_statistics_follow_the_given_parameters() -> None:
    model, data = functional_model(build()), batches([4])
    doubled = model.params | {"2.weight": 2 * model.params["2.weight"]}
    variances = [
        estimate_statistics(model, params, model.buffers, data)["3.running_var"] for params in (model.params, doubled)
    ]
    torch.testing.assert_close(variances[1], 4 * variances[0])


def test_model_and_inputs_are_unchanged_and_other_buffers_kept() -> None:
    module = build()
    module.register_buffer("other", torch.tensor([1.0, 2.0]))
    module[2].bias.requires_grad_(False)
    model, data = functional_model(module), batches([4, 6])
    before = snapshot(model, {}, *data)
    result = estimate(model, data)
    assert unchanged(before, snapshot(model, {}, *data))
    assert not any(layer.training for layer in model.module.modules())
    assert result.keys() == model.buffers.keys()
    assert torch.equal(result["other"], torch.tensor([1.0, 2.0]))
    assert torch.equal(result["2.bias"], model.buffers["2.bias"])


def test_a_batch_norm_alone() -> None:
    model, data = functional_model(nn.BatchNorm1d(3).double()), batches([4])
    torch.testing.assert_close(estimate(model, data)["running_mean"], data[0].mean(0))


def test_statistics_are_trained_once_every_layer_has_seen_a_batch() -> None:
    module = build()
    assert has_untrained_statistics(functional_model(module))
    module[0](batches([4])[0])
    assert has_untrained_statistics(functional_model(module))
    module(batches([4])[0])
    assert not has_untrained_statistics(functional_model(module))
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.num_batches_tracked.zero_()  # as in weights that were published without
    assert not has_untrained_statistics(functional_model(module))


@pytest.mark.parametrize(
    ("module", "running", "coupling"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), True, ()),
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, track_running_stats=False)), False, ("1",)),
        (nn.Sequential(nn.Linear(1, 2), nn.LayerNorm(2), nn.Dropout()), False, ()),
        (nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm3d(2, track_running_stats=False))), True, ("1.0",)),
    ],
    ids=["running", "batch only", "none", "both"],
)
def test_which_layers_have_running_statistics(module: nn.Module, running: bool, coupling: tuple[str, ...]) -> None:
    model = functional_model(module)
    assert has_batch_norm(model) is running
    assert has_untrained_statistics(model) is running
    assert coupling_layers(model) == coupling


class Keeping(nn.Sequential):
    """Keeps what its last pass came to, which cannot be copied."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


def test_a_network_may_keep_results_of_its_last_pass() -> None:
    model, data = functional_model(Keeping(*build())), batches([4])
    (x,) = data
    kernel_vector_product(model.bind(), model.params, x, x, torch.ones_like(model.bind()(model.params, x)))
    found = estimate_statistics(model, model.params, model.buffers, data)
    expected = estimate_statistics(functional_model(build()), model.params, model.buffers, data)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

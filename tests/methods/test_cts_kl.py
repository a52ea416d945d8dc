from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ntt_cli as ntt
from ntt_cli.methods.cts_kl import divergence, gate, shift_to


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("density", [0.01, 0.5, 0.99])
def test_the_shift_meets_the_expected_density(density: float) -> None:
    logits = {"a": 10 * torch.randn(30, 20, generator=seeded()), "b": torch.randn(50, generator=seeded(1)) - 5}
    shift = shift_to(logits, density)
    kept = sum(float(torch.sigmoid(value.double() + shift).sum()) for value in logits.values())
    assert kept / 650 == pytest.approx(density, rel=1e-4)


def test_a_gate_is_open_with_the_probability_of_its_logit() -> None:
    """`z > 1/2` where the logistic noise exceeds `−logit`, at every temperature."""
    for logit in (-2.0, 0.0, 1.5):
        values = gate(torch.full((20000,), logit), generator=seeded())
        expected = 1 / (1 + torch.exp(torch.tensor(-logit)))
        assert float((values > 0.5).float().mean()) == pytest.approx(float(expected), abs=0.015)


def test_the_divergence_is_of_the_student_from_the_teacher() -> None:
    student, teacher = (torch.randn(5, 7, 3, generator=seeded(s)).double() for s in (0, 1))
    expected = F.kl_div(
        teacher.log_softmax(-1), student.log_softmax(-1), reduction="sum", log_target=True
    )  # torch's arguments are the other way round
    assert float(divergence({"x": student}, {"x": teacher})) == pytest.approx(float(expected) / 5, rel=1e-12)


def test_the_weights_that_make_the_outputs_are_found() -> None:
    """Magnitudes mislead here: the largest weights belong to an input that is always zero."""
    net = nn.Linear(8, 3, bias=False)
    net.weight.data = torch.randn(3, 8, generator=seeded()) * 0.5
    net.weight.data[:, 4:] += 3 * net.weight.data[:, 4:].sign()
    x = torch.cat([4 * torch.randn(256, 4, generator=seeded(1)), torch.zeros(256, 4)], dim=1)
    result = ntt.prune(net, x, sparsity=0.5, method="cts-kl", steps=60, batch_size=64, trained=False)
    mask = result.masks["weight"]
    assert int(mask[:, :4].sum()) >= 11
    assert torch.equal(result.model.weight[mask], net.weight[mask])


def test_the_report_counts_the_steps() -> None:
    network, x = nn.Linear(4, 3), torch.randn(16, 4)
    result = ntt.prune(network, x, sparsity=0.5, method="cts-kl", steps=7)
    assert result.report.steps == 7


def test_whole_batches_are_refused() -> None:
    lengths = [torch.randn(3 + i % 2, 4) for i in range(8)]
    with pytest.raises(ntt.NttError, match="needs outputs for each sample; .* gives whole batches"):
        ntt.prune(nn.Linear(4, 3), lengths, sparsity=0.5, method="cts-kl", steps=2)

from __future__ import annotations

import math

import pytest
import torch

from ntt_cli.kernels.spectrum import alignment, effective_rank, kernel_spectrum, predicted_residuals


def test_eigenvalues_are_squared_singular_values_of_the_jacobian() -> None:
    jacobian = torch.randn(4, 3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = torch.einsum("ncp,mdp->nmcd", jacobian, jacobian)
    expected = torch.linalg.svdvals(jacobian.flatten(0, 1)).square()
    torch.testing.assert_close(kernel_spectrum(kernel), expected, rtol=1e-12, atol=0)


def test_outputs_of_one_sample_are_not_mixed_with_samples_of_one_output() -> None:
    kernel = torch.zeros(2, 2, 2, 2)
    kernel[0, 0] = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    kernel[1, 1] = torch.tensor([[5.0, 0.0], [0.0, 7.0]])
    torch.testing.assert_close(kernel_spectrum(kernel), torch.tensor([7.0, 5.0, 3.0, 1.0]))


def test_alignment_by_hand() -> None:
    one = torch.tensor([1.0, 2.0, 2.0, 0.0]).view(2, 2, 1, 1)
    other = torch.tensor([0.0, 3.0, 0.0, 4.0]).view(2, 2, 1, 1)
    assert alignment(one, other).item() == pytest.approx(6 / (3 * 5))
    assert alignment(one, 7 * one).item() == pytest.approx(1)
    assert alignment(one, -one).item() == pytest.approx(-1)
    assert alignment(one, torch.zeros_like(one)).item() == 0


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.full((5,), 3.0)).item() == pytest.approx(5)
    assert effective_rank(torch.tensor([4.0, 0.0, 0.0, -1e-9])).item() == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(torch.tensor([3.0, 1.0])).item() == pytest.approx(math.exp(entropy))


def test_predicted_residuals_are_those_of_gradient_descent_on_a_linear_network() -> None:
    """Small steps on `½ ‖J w − y‖²`, over many Gaussian targets at once."""
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    eigenvalues = torch.linalg.svdvals(jacobian).square()
    targets = torch.randn(6, 20_000, generator=generator, dtype=torch.float64)
    step, residual, found = 1e-4, -targets, []
    for t in range(601):
        if t % 200 == 0:
            found.append(residual.square().mean() / targets.square().mean())
        residual = residual - step * jacobian @ (jacobian.T @ residual)
    times = torch.tensor([0.0, 200, 400, 600], dtype=torch.float64) * step
    torch.testing.assert_close(predicted_residuals(eigenvalues, times), torch.stack(found), rtol=0.02, atol=0)

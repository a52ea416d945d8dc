from __future__ import annotations

import torch

from ntt_cli.core.spectrum import kernel_spectrum


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

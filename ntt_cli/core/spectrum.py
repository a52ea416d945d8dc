"""The spectrum of a neural tangent kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kernel_spectrum(kernel: Float[Tensor, "n n c c"]) -> Float[Tensor, " n*c"]:
    """Eigenvalues of a kernel of samples with themselves, as the matrix `[n·c, n·c]`, largest first."""
    samples, _, outputs, _ = kernel.shape
    matrix = kernel.transpose(1, 2).reshape(samples * outputs, samples * outputs)
    ascending: Tensor = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return ascending.flip(0)

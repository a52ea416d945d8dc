"""What a neural tangent kernel says about learning: its spectrum, its effective rank, its alignment with another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kernel_spectrum(kernel: Float[Tensor, "n n c c"]) -> Float[Tensor, " n*c"]:
    """Eigenvalues of a kernel between samples and themselves, seen as a matrix `[n·c, n·c]`, largest first."""
    samples, _, outputs, _ = kernel.shape
    kernel = kernel.to(torch.promote_types(kernel.dtype, torch.float32))  # eigvalsh has no half precision
    matrix = kernel.transpose(1, 2).reshape(samples * outputs, samples * outputs)
    ascending: Tensor = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return ascending.flip(0)


def alignment(one: Float[Tensor, "n m c c"], other: Float[Tensor, "n m c c"]) -> Float[Tensor, ""]:
    """`⟨K, K'⟩ / (‖K‖ ‖K'‖)`: 1 where one is a positive multiple of the other. Cristianini et al. 2001."""
    scale = (one.norm() * other.norm()).clamp_min(torch.finfo(one.dtype).tiny)
    cosine: Tensor = (one * other).sum() / scale
    return cosine


def effective_rank(eigenvalues: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """`exp(−Σ p log p)` with `p = λ / Σ λ`: `k` for equal eigenvalues, 1 for a single one. Roy & Vetterli 2007."""
    positive = eigenvalues.clamp_min(0)
    p = positive / positive.sum().clamp_min(torch.finfo(positive.dtype).tiny)
    rank: Tensor = torch.special.entr(p).sum().exp()
    return rank


def predicted_residuals(eigenvalues: Float[Tensor, " k"], times: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """The share of a random target's squared error that gradient flow leaves after each time, `mean_i exp(−2 λ_i τ)`.

    It holds for the network linearised at its parameters, on these samples, for the sum of squared errors. The targets
    are Gaussian and independent, so that no label is needed. Jacot et al. 2018, arXiv 1806.07572; Lee et al. 2019,
    arXiv 1902.06720.
    """
    return torch.exp(-2 * times[:, None] * eigenvalues.clamp_min(0)[None, :]).mean(dim=1)

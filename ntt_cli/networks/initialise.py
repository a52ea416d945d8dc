"""New random weights like those of an initialisation, without calling anybody's code."""

from __future__ import annotations

import torch

from ntt_cli.tensors import Params


def reinitialise(params: Params, *, generator: torch.Generator) -> Params:
    """Each parameter drawn anew from the normal distribution with the mean and deviation of its own entries.

    That is Kaiming's and Glorot's normal initialisation again, and their uniform ones up to the third moment; constant
    parameters stay as they are.
    """
    return {
        name: p.mean() + p.std(correction=0) * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        for name, p in params.items()
    }


def rescale_by_density(params: Params, densities: dict[str, float]) -> Params:
    """Each weight over the square root of its layer's density: the variance of what comes out is the dense layer's."""
    return {name: p / densities[name] ** 0.5 if name in densities else p for name, p in params.items()}

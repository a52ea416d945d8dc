"""New random weights like those of an initialisation, without calling the user's code."""

from __future__ import annotations

import torch

from ntt_cli.tensors import Params


def reinitialise(params: Params, *, generator: torch.Generator) -> Params:
    """Parameters drawn from normal distributions with the mean and deviation of each parameter's own entries.

    This repeats Kaiming's and Glorot's normal initialisation. It agrees with their uniform ones up to the third moment.
    Constant parameters stay the same.
    """
    return {
        name: p.mean() + p.std(correction=0) * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        for name, p in params.items()
    }


def rescale_by_density(params: Params, densities: dict[str, float]) -> Params:
    """Each weight over the square root of its layer's density, so that outputs keep the dense layer's variance."""
    return {name: p / densities[name] ** 0.5 if name in densities else p for name, p in params.items()}

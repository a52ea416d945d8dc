"""Scores from the weights alone: magnitude and chance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ntt_cli.tensors import Params


def magnitude_scores(params: Params, names: Iterable[str]) -> dict[str, Tensor]:
    """`|w|`. Han et al. 2015, arXiv 1506.02626."""
    return {name: params[name].detach().abs() for name in names}


def random_scores(params: Params, names: Iterable[str], *, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform in [0, 1): a random mask at the allocation's counts."""
    return {
        name: torch.rand(params[name].shape, generator=generator, device=generator.device).to(params[name].device)
        for name in names
    }

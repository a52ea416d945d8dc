"""Networks by the names that `ntt` takes, for the other benchmarks."""

from __future__ import annotations

import runpy

import torch
from torch import nn


def build(source: str, *, seed: int, **arguments: object) -> nn.Module:
    """The network that `ntt` builds of `model.py`, `model.py:factory` or `torchvision:NAME` under this seed."""
    path, _, name = source.partition(":")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if path == "torchvision":
            from torchvision import models

            network: nn.Module = models.get_model(name, weights=None, **arguments)
        else:
            network = runpy.run_path(path)[name or "build_model"](**arguments)
    return network

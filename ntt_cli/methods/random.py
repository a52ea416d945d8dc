"""A random mask, with the allocation's count in each layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.tensors import Masks, Params


@register_method("random")
class Random(Method):
    """A random mask, the baseline of every method."""

    needs = "nothing"
    allocation = "erk"

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        return random_scores(context.params, context.names, generator=context.generator)


def random_scores(params: Params, names: Iterable[str], *, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform in [0, 1): a random mask at the allocation's counts."""
    return {
        name: torch.rand(params[name].shape, generator=generator, device=generator.device).to(params[name].device)
        for name in names
    }

"""Magnitude: the largest weights are kept. Han et al. 2015, arXiv 1506.02626."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.tensors import Masks, Params


@register_method("magnitude")
class Magnitude(Method):
    """`|w|`, in one round. If data is named, batch-norm statistics are estimated for the sparse network."""

    needs = "nothing"
    allocation = "erk"

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        return magnitude_scores(context.params, context.names)


def magnitude_scores(params: Params, names: Iterable[str]) -> dict[str, Tensor]:
    """`|w|`. Han et al. 2015, arXiv 1506.02626."""
    return {name: params[name].detach().abs() for name in names}

"""LAMP: magnitudes, made comparable between layers. Lee et al. 2021, arXiv 2010.07611."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.tensors import Masks


@register_method("lamp")
class Lamp(Method):
    """`w²` over the sum of all `w²` in its layer that are as large or larger."""

    needs = "nothing"

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        return {name: lamp_scores(weight) for name, weight in context.weights.items()}


def lamp_scores(weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`w_u² / Σ_{v: w_v² ≥ w_u²} w_v²`, in double precision; the largest weight of a layer scores 1, a zero 0.

    Among equal weights each counts all of them, so that they score alike.
    """
    squares = weight.detach().double().square().flatten()
    ordered, order = squares.sort(descending=True)
    _, runs = torch.unique_consecutive(ordered, return_counts=True)
    last = runs.cumsum(0) - 1  # of each run of equal weights
    total = ordered.cumsum(0)[last].repeat_interleave(runs)
    scores = torch.empty_like(squares)
    scores[order] = ordered / total.clamp_min(torch.finfo(total.dtype).tiny)
    return scores.view(weight.shape)

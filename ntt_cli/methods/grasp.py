"""GraSP: the effect of each weight on the norm of the gradient. Wang et al. 2020, arXiv 2002.07376."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.methods.snip import Labelled, gradients_of, leaves_of
from ntt_cli.networks.second_order import twice_differentiable
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Apply, Masks, Params


@register_method("grasp")
class GraSP(Method):
    """`w · (H g)` for the gradient `g` and Hessian `H` of the loss, in one round."""

    needs = "labels"
    reads = frozenset({"batch_size"})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        return grasp_scores(context.apply, context.masked(masks), context.names, context.labelled())


def grasp_scores(
    apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Labelled], *, temperature: float = 200.0
) -> dict[str, Tensor]:
    """`w · (H g)`, with `g` and `H` the gradient and Hessian of the cross-entropy of `f(x) / temperature`.

    To first order `−2 w · (H g)` is the change of `‖g‖²` when the weight is removed, so that the highest scores keep
    the most gradient. Derivatives are with respect to the named weights alone. Needs labels.
    """
    kept = list(batches)
    total = sum(batch_size(x) for x, _ in kept)
    leaves = leaves_of(params)
    scores = {name: torch.zeros_like(params[name]) for name in names}

    def gradient(x: Batch, labels: Int[Tensor, "n"], *, create_graph: bool) -> Params:
        loss = CLASSIFICATION.loss(apply(leaves, x) / temperature, labels) * (batch_size(x) / total)
        return gradients_of(loss, leaves, names, create_graph=create_graph)

    with torch.enable_grad(), twice_differentiable():
        parts = [gradient(x, y, create_graph=False) for x, y in kept]
        first = {name: sum(part[name] for part in parts) for name in names}
        for x, y in kept:
            second = gradient(x, y, create_graph=True)
            inner = torch.stack([(first[name] * second[name]).sum() for name in names]).sum()
            for name, product in gradients_of(inner, leaves, names).items():
                scores[name] += params[name].detach() * product
    return scores

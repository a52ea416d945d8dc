"""SNIP: how much the loss depends on each weight. Lee et al. 2019, arXiv 1810.02340."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Apply, Masks, Params

Labelled = tuple[Batch, Tensor]
"""Inputs `[n, ...]` and labels `[n]`, or `[n, positions]`."""


@register_method("snip")
class Snip(Method):
    """`|w · ∂L/∂w|` for the loss `L`, in one round."""

    needs = "labels"
    reads = frozenset({"batch_size"})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        return snip_scores(context.apply, context.masked(masks), context.names, context.labelled())


def snip_scores(apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Labelled]) -> dict[str, Tensor]:
    """`|w · ∂L/∂w|` with the cross-entropy `L` averaged over all samples. Lee et al. 2019, arXiv 1810.02340.

    At masked parameters the score of a pruned entry is zero. Needs labels.
    """

    def losses(at: Params) -> Iterator[tuple[Tensor, int]]:
        return ((CLASSIFICATION.loss(apply(at, x), labels), batch_size(x)) for x, labels in batches)

    return weight_times_gradient(params, names, losses)


def weight_times_gradient(
    params: Params, names: Sequence[str], losses: Callable[[Params], Iterable[tuple[Tensor, int]]]
) -> dict[str, Tensor]:
    """`|w · ∂L/∂w|` at `params` for each named weight, with `L` the mean of the losses over their samples.

    At given parameters, `losses` gives for each batch the mean loss, with a graph, and the number of samples.
    """
    leaves = leaves_of(params)
    total, count = {name: torch.zeros_like(params[name]) for name in names}, 0
    with torch.enable_grad():
        for loss, samples in losses(leaves):
            for name, gradient in gradients_of(loss, leaves, names).items():
                total[name] += samples * gradient
            count += samples
    return {name: (params[name].detach() * total[name] / count).abs() for name in names}


def leaves_of(params: Params) -> Params:
    """The parameters as leaves of a new graph; values are shared."""
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def gradients_of(loss: Tensor, leaves: Params, names: Iterable[str], *, create_graph: bool = False) -> Params:
    """The gradient of a scalar with respect to each named leaf, zero where it does not depend on it."""
    chosen = {name: leaves[name] for name in names}
    found = torch.autograd.grad(loss, list(chosen.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(chosen, found, strict=True))

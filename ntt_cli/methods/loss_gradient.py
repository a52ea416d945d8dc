"""SNIP and its label-free sibling: how much the loss, or the logits' size, depends on each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ntt_cli.networks.outputs import label_loss
from ntt_cli.networks.second_order import twice_differentiable
from ntt_cli.tensors import Apply, Params

Batch = tuple[Tensor, Tensor]
"""Inputs `[n, ...]` and labels `[n]`, or `[n, positions]`."""


def snip_scores(apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """`|w · ∂L/∂w|` with the cross-entropy `L` averaged over all samples. Lee et al. 2019, arXiv 1810.02340.

    At masked parameters the score of a pruned entry is zero. Needs labels.
    """
    return _effects(params, names, lambda at: ((label_loss(apply(at, x), y), len(x)) for x, y in batches))


def logit_snip_scores(
    apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """`|w · ∂R/∂w|` with `R = ½ E‖f(x)‖²`: SNIP without labels, after the baseline of Liu & Zenke 2020."""
    return _effects(params, names, lambda at: ((half_squared_norm(apply(at, x)), len(x)) for x in batches))


def half_squared_norm(logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """`½ E‖f(x)‖²`."""
    return logits.square().sum() / (2 * len(logits))


def grasp_scores(
    apply: Apply,
    params: Params,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    temperature: float = 200.0,
) -> dict[str, Tensor]:
    """`w · (H g)`, with `g` and `H` the gradient and Hessian of the cross-entropy of `f(x) / temperature`.

    To first order `−2 w · (H g)` is the change of `‖g‖²` when the weight is removed, so that the highest scores keep
    the most gradient. Derivatives are by the named weights alone. Wang et al. 2020, arXiv 2002.07376. Needs labels.
    """
    kept = list(batches)
    total = sum(len(x) for x, _ in kept)
    leaves = _leaves(params)
    weights = [leaves[name] for name in names]

    def gradient(x: Tensor, labels: Int[Tensor, "n"], *, create_graph: bool) -> tuple[Tensor, ...]:
        loss = label_loss(apply(leaves, x) / temperature, labels) * (len(x) / total)
        return torch.autograd.grad(loss, weights, create_graph=create_graph, materialize_grads=True)

    with torch.enable_grad(), twice_differentiable():
        first = [sum(parts) for parts in zip(*(gradient(x, y, create_graph=False) for x, y in kept), strict=True)]
        scores = {name: torch.zeros_like(weight) for name, weight in zip(names, weights, strict=True)}
        for x, y in kept:
            inner = torch.stack([
                (g * h).sum() for g, h in zip(first, gradient(x, y, create_graph=True), strict=True)
            ]).sum()
            products = torch.autograd.grad(inner, weights, materialize_grads=True)
            for name, weight, product in zip(names, weights, products, strict=True):
                scores[name] += weight.detach() * product
    return scores


def _effects(
    params: Params, names: Sequence[str], losses: Callable[[Params], Iterable[tuple[Tensor, int]]]
) -> dict[str, Tensor]:
    leaves = _leaves(params)
    weights = [leaves[name] for name in names]
    total = [torch.zeros_like(weight) for weight in weights]
    count = 0
    with torch.enable_grad():
        for loss, samples in losses(leaves):
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            total = [sum_ + samples * gradient for sum_, gradient in zip(total, gradients, strict=True)]
            count += samples
    return {
        name: (weight.detach() * sum_.detach() / count).abs()
        for name, weight, sum_ in zip(names, weights, total, strict=True)
    }


def _leaves(params: Params) -> Params:
    return {name: p.detach().requires_grad_() for name, p in params.items()}

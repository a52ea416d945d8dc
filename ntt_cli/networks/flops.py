"""Floating-point operations of a forward pass, dense and with pruned weights skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.networks.multiplied import FACTORS, Tracer, storage, tensors
from ntt_cli.tensors import Apply, Masks, Params

SELDOM = 8
FILLED = 0.75
"""If more than this fraction of a factor is nonzero while half of its weight is zero, its zeros are not used."""


@dataclass(frozen=True)
class Flops:
    """Operations for one sample, all and without products with pruned weights. A product with its sum counts as two."""

    dense: int
    sparse: int


def count_flops(apply: Apply, params: Params, x: Batch, masks: Masks) -> Flops:
    """Count matrix products and convolutions with torch's formulas (`torch.utils.flop_counter`).

    A product with a factor that comes from pruned weights counts in proportion to the factor's nonzero entries. The
    factor may be a weight, a view of it, or computed from weights alone, as in weight normalisation. Values that are
    only added, such as biases, do not count.
    """
    products = _products(apply, params | _nonzero_where_kept(params, masks), x, frozenset(masks))
    sparse = sum(
        product.flops * min((factor.density for factor in product.weights), default=1.0) for product in products
    )
    return Flops(
        dense=round(sum(product.flops for product in products) / batch_size(x)), sparse=round(sparse / batch_size(x))
    )


def zeros_not_in_use(
    apply: Apply, params: Params, x: Batch, names: Sequence[str], *, generator: torch.Generator
) -> tuple[str, ...]:
    """The weights whose zeros become nonzero before they are multiplied, as in a network that standardises its weights.

    To find them, half of each weight's entries are set to zero, and the zeros in the factors of products are counted.
    """
    masks = {
        name: (torch.randperm(params[name].numel(), generator=generator) % 2 == 0)
        .view(params[name].shape)
        .to(params[name].device)
        for name in names
    }
    products = _products(apply, params | _nonzero_where_kept(params, masks), x, frozenset(names))
    filled = [factor for product in products for factor in product.weights if factor.density > FILLED]
    return tuple(name for name in names if any(name in factor.names for factor in filled))


def _nonzero_where_kept(params: Params, masks: Masks) -> Params:
    # A kept weight may itself be zero, as in a zero-initialised layer.
    return {name: torch.where(mask, params[name].masked_fill(params[name] == 0, 1), 0) for name, mask in masks.items()}


def flops_by_weight(apply: Apply, params: Params, x: Batch, names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Operations for one sample in products with each weight itself, and all others."""
    products = _products(apply, params, x, frozenset(names))
    by_weight, fixed = dict.fromkeys(names, 0.0), 0.0
    for product in products:
        own = [name for factor in product.weights for name in factor.names]
        if len(own) == 1:
            by_weight[own[0]] += product.flops / batch_size(x)
        else:
            fixed += product.flops / batch_size(x)
    return by_weight, fixed


def uses_weights_seldom(apply: Apply, params: Params, x: Batch) -> bool:
    """Whether products use a weight at most `SELDOM` times a sample, on average; activations are few then.

    Linear layers on vectors use each weight once. LeNet-5 uses a weight 5 times on average, ResNets and transformers
    more often.
    """
    return count_flops(apply, params, x, {}).dense <= 2 * SELDOM * sum(p.numel() for p in params.values())


def seldom_used(apply: Apply, params: Params, x: Batch) -> set[str]:
    """The weights that products use at least once, and at most `SELDOM` times a sample.

    Such are the weights of linear layers on vectors, and of convolutions with few output positions.
    """
    products = _products(apply, params, x)
    taken = {
        name: sum(product.flops for product in products if storage(p) in product.factors)
        / (2 * p.numel() * batch_size(x))
        for name, p in params.items()
    }
    return {name for name, times in taken.items() if 0 < times <= SELDOM}


@dataclass(frozen=True)
class _Factor:
    """A factor of a product that comes from weights alone: the weights, and the fraction of nonzero entries."""

    names: frozenset[str]
    density: float


@dataclass(frozen=True)
class _Product:
    """A matrix product or convolution: its operations, its factors by their storage, and those made of weights."""

    flops: int
    factors: set[int]
    weights: list[_Factor]


def _products(apply: Apply, params: Params, x: Batch, names: frozenset[str] = frozenset()) -> list[_Product]:
    """Each product of a forward pass, with the factors that come from the weights `names`."""
    counter = _Counter({name: params[name] for name in names}, x)
    counter.watch(apply, params, x)
    return counter.products


class _Counter(Tracer):
    """Counts products, and the nonzero entries of their factors that are made of weights alone."""

    def __init__(self, weights: Params, x: Batch) -> None:
        super().__init__(weights, x)
        self.products: list[_Product] = []

    def look(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if (formula := flop_registry.get(operation)) is None:
            return
        weights = [
            _Factor(names, int(leaf.count_nonzero()) / leaf.numel())
            for leaf in tensors(args[FACTORS.get(operation, slice(None))])
            if leaf.numel() and (names := self.parameters_in(leaf))
        ]
        factors = {storage(leaf) for leaf in tensors((args, kwargs))}
        self.products.append(_Product(formula(*args, **kwargs, out_val=out), factors, weights))

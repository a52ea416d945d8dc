"""Floating-point operations of a forward pass, dense and with pruned weights skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ntt_cli.core.functional import Apply, Masks, Params

SELDOM = 8


@dataclass(frozen=True)
class Flops:
    """Of one sample: a multiplication and an addition count as two.

    Attributes:
        dense: of the network as it is.
        sparse: those left if products with pruned weights are skipped.
    """

    dense: int
    sparse: int


def count_flops(apply: Apply, params: Params, x: Tensor, masks: Masks) -> Flops:
    """Count matrix products and convolutions with torch's formulas (`torch.utils.flop_counter`).

    Each operation on a pruned weight, or on a view of one, counts in proportion to the weight's density.

    Args:
        apply: the network.
        params: its parameters.
        x: inputs; the counts are divided by their number.
        masks: of the pruned weights.
    """
    densities = {_storage(params[name]): float(mask.double().mean()) for name, mask in masks.items()}
    products = _products(apply, params, x)
    sparse = sum(flops * min(densities.get(factor, 1.0) for factor in factors) for flops, factors in products)
    return Flops(dense=round(sum(flops for flops, _ in products) / len(x)), sparse=round(sparse / len(x)))


def uses_weights_seldom(apply: Apply, params: Params, x: Tensor) -> bool:
    """Whether products take a weight `SELDOM` times a sample at most, on average; activations are few then.

    Linear layers on vectors take each once, LeNet-5 takes 5 times on average, ResNets and transformers more often.
    """
    return count_flops(apply, params, x, {}).dense <= 2 * SELDOM * sum(p.numel() for p in params.values())


def seldom_used(apply: Apply, params: Params, x: Tensor) -> set[str]:
    """The weights that products take at least once, and `SELDOM` times a sample at most.

    Such is a linear layer's on vectors, and that of a convolution with few positions.
    """
    products = _products(apply, params, x)
    taken = {
        name: sum(flops for flops, factors in products if _storage(p) in factors) / (2 * p.numel() * len(x))
        for name, p in params.items()
    }
    return {name for name, times in taken.items() if 0 < times <= SELDOM}


def _products(apply: Apply, params: Params, x: Tensor) -> list[tuple[int, set[int]]]:
    """Operations and factors, by their storage, of each matrix product and convolution."""
    counter = _Counter()
    # Of fused attention kernels, torch has formulas for some devices only.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        apply(params, x)
    return counter.products


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.products: list[tuple[int, set[int]]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is not None:
            factors = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            self.products.append((formula(*args, **(kwargs or {}), out_val=out), factors))
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

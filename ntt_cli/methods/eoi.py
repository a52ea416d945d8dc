"""EOI, exact orthogonal initialisation: random masks with sparse orthogonal weights. Nowak et al. 2024."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from ntt_cli.masks.masks import choose_masks
from ntt_cli.methods.base import MethodContext, Pruned, register_method
from ntt_cli.methods.random import Random


@register_method("eoi")
class EOI(Random):
    """A random sparse orthogonal matrix as each layer's weights, and its nonzero entries as the mask; biases are 0."""

    replaces_weights = True

    def prune(self, context: MethodContext) -> Pruned:
        """The allocation's counts; entries that the orthogonal matrices do not use are random, and begin at 0."""
        counts = {name: int(mask.sum()) for name, mask in self.masks(context).items()}
        weights, scores = {}, {}
        for name, weight in context.weights.items():
            values = orthogonal_weight(weight.shape, counts[name], generator=context.generator)
            free = torch.rand(values.shape, generator=context.generator)
            weights[name], scores[name] = values.to(weight), (free + (values != 0)).to(weight.device)
        biases = {name: torch.zeros_like(p) for name, p in context.params.items() if name.endswith("bias")}
        masks = choose_masks(scores, counts, slices=context.settings.slices)
        return context.pruned(context.params | biases | weights, masks)


def orthogonal_weight(shape: torch.Size, count: int, *, generator: torch.Generator) -> Tensor:
    """Weights `[o, i, ...]` with at most `count` nonzero entries. Nowak et al. 2024, arXiv 2406.01755, section 3.

    A matrix is `sparse_orthogonal`. A convolution has one of the same density at the centre of its kernel, where it
    has at least `min(o, i)` nonzero entries if `count` allows, and zeros elsewhere (Xiao et al. 2018).
    """
    matrix = shape[0] * shape[1]
    density = count / math.prod(shape)
    nonzero = min(count, max(min(shape[:2]), round(density * matrix)))
    weight = torch.zeros(shape, dtype=torch.float64)
    centre = weight
    for size in reversed(shape[2:]):
        centre = centre[..., (size - 1) // 2]
    centre.copy_(sparse_orthogonal(shape[0], shape[1], nonzero, generator=generator))
    return weight


def sparse_orthogonal(o: int, i: int, count: int, *, generator: torch.Generator) -> Float64[Tensor, "o i"]:
    """A matrix of orthonormal rows, or columns if there are more rows, with at most `count` nonzero entries.

    Random Givens rotations turn pairs of columns of the identity, until the next one would make too many entries.
    If `count` is less than the number of orthonormal vectors, that many of them are left, and the others are zero.
    """
    if o > i:
        return sparse_orthogonal(i, o, count, generator=generator).T
    columns = torch.eye(i, o, dtype=torch.float64)  # transposed, so that a column is one piece of memory
    columns[min(count, o) :] = 0
    left = count - min(count, o)
    while left > 0 and i > 1:
        first, second = torch.randperm(i, generator=generator)[:2].tolist()
        angle = 2 * math.pi * float(torch.rand((), generator=generator))
        a, b = columns[first].clone(), columns[second].clone()
        left -= int(((a != 0) ^ (b != 0)).sum())
        if left >= 0:
            columns[first] = math.cos(angle) * a + math.sin(angle) * b
            columns[second] = math.cos(angle) * b - math.sin(angle) * a
    return columns.T

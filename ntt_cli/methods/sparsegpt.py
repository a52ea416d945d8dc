"""SparseGPT: one pass over the columns of each layer, with later columns making up for what earlier ones lose.

Frantar & Alistarh 2023, arXiv 2301.00774.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ntt_cli.config.pattern import Groups
from ntt_cli.masks.masks import best_of_slices, keep_top
from ntt_cli.methods.base import register_method
from ntt_cli.methods.layerwise import DAMPENING, Layer, LayerwiseMethod, damped

BLOCK = 128
"""Columns whose mask is chosen together: the paper's."""


@register_method("sparsegpt")
class SparseGPT(LayerwiseMethod):
    """The smallest `w² / (H⁻¹)_jj` of each block of 128 columns go, with `H` from the already pruned network's inputs.

    It starts from the dense weights, as the authors do, and does not look for the dense network's outputs.
    """

    def solve(self, layer: Layer) -> tuple[Tensor, Tensor]:
        hessian, cross = layer.moments()
        hessian, _ = damped(hessian, cross, dampening=DAMPENING)
        return sparsegpt(layer.weight, hessian, n_keep=layer.n_keep, groups=layer.groups)


def sparsegpt(
    weight: Float[Tensor, "g o i"],
    hessian: Float[Tensor, "g i i"],
    *,
    n_keep: int,
    block: int = BLOCK,
    groups: Groups | None = None,
) -> tuple[Bool[Tensor, "g o i"], Float[Tensor, "g o i"]]:
    """The mask and the weights after one pass over the columns.

    With `U` the upper Cholesky factor of `H⁻¹`, `U_jj²` is the entry `jj` of the inverse of `H` without the columns
    before `j`. Column by column, pruned entries go, and all later columns change by `−(w_j / U_jj) U_j,j:`.

    Each block of columns keeps its share of `n_keep`, by the largest `w² / U_jj²` over all of its rows and groups. With
    a pattern, each group of a row keeps its largest, once the columns before the group are done (section 3.4).
    """
    if groups is not None:
        block = max(block // groups.of, 1) * groups.of
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    weight, columns = weight.clone(), weight.shape[-1]
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        share = round(n_keep * end / columns) - round(n_keep * start / columns)
        now, pivots = weight[..., start:end], upper.diagonal(dim1=-2, dim2=-1)[:, None, start:end]
        kept = mask[..., start:end]
        if groups is None:
            kept[:] = keep_top((now / pivots).square(), n_keep=share)
        errors = torch.zeros_like(now)
        for j in range(start, end):
            if groups is not None and j % groups.of == 0:
                group = slice(j - start, j - start + groups.of)
                kept[..., group] = best_of_slices((now / pivots)[..., group].square(), groups)
            gone = torch.where(kept[..., j - start], 0, weight[..., j]) / upper[:, j, j, None]
            errors[..., j - start] = gone
            weight[..., j:end] -= gone[..., None] * upper[:, None, j, j:end]
        weight[..., end:] -= errors @ upper[:, start:end, end:]
    return mask, torch.where(mask, weight, 0)

"""OBC: exact optimal brain surgeon, layer by layer. Frantar, Singh & Alistarh 2022, arXiv 2208.11580."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ntt_cli.config.pattern import Groups
from ntt_cli.masks.masks import keep_top
from ntt_cli.methods.base import register_method
from ntt_cli.methods.layerwise import DAMPENING, Layer, LayerwiseMethod, damped, masked_least_squares

ROW_BYTES = {"cpu": 2**22, "cuda": 2**31}
"""The size of the inverses that are worked on at once, one a row: on a CPU they should stay in its cache."""

CROWDED = 0.75
"""Removed inputs leave the inverses once no more than this fraction of the inputs is left."""


@register_method("obc")
class OBC(LayerwiseMethod):
    """Weights go one by one, each time the one that costs the layer least, and the others of its row make up for it.

    The paper takes the dense weights for optimal. Here the inputs are those of the already pruned network, and the
    outputs to reach those of the dense one, so it begins with the weights that come closest to these.
    """

    def solve(self, layer: Layer) -> tuple[Tensor, Tensor]:
        hessian, cross = damped(*layer.moments(), dampening=DAMPENING)
        target = layer.weight @ cross
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        if layer.groups is None:
            mask = keep_top(removal_order(target @ inverse, inverse), n_keep=layer.n_keep)
        else:
            mask = kept_of_groups(target @ inverse, inverse, layer.groups)
        # Removing one by one ends at the best weights under the mask. Solving for these adds up no rounding errors.
        return mask, masked_least_squares(hessian, target, mask)


def removal_order(weight: Float[Tensor, "g o i"], inverse: Float[Tensor, "g i i"]) -> Float[Tensor, "g o i"]:
    """The place of each weight in the order in which a layer loses its weights; the first is 0.

    Rows do not depend on each other: each has an order of its own, and the layer removes the weight that costs least
    among those that are next in their rows. That is the order of the largest loss so far of each row.
    """
    per_group = [removals(rows, own) for rows, own in zip(weight, inverse, strict=True)]
    losses = torch.stack([losses for losses, _ in per_group]).cummax(dim=-1).values
    columns = torch.stack([columns for _, columns in per_group])
    steps = torch.arange(weight.shape[-1], device=weight.device).expand_as(columns)
    by_step = steps.flatten().argsort(stable=True)
    by_loss = by_step[losses.flatten()[by_step].argsort(stable=True)]
    place = torch.empty_like(losses).flatten()
    place[by_loss] = torch.arange(len(place), device=place.device).to(place)
    return torch.empty_like(losses).scatter_(-1, columns, place.view(losses.shape))


def kept_of_groups(
    weight: Float[Tensor, "g o i"], inverse: Float[Tensor, "g i i"], groups: Groups
) -> Bool[Tensor, "g o i"]:
    """What is left of each row once every group has lost its share. Rows do not compete: each loses as many."""
    mask = torch.ones_like(weight, dtype=torch.bool)
    for kept, rows, own in zip(mask, weight, inverse, strict=True):
        kept.scatter_(-1, removals(rows, own, groups)[1], False)
    return mask


def removals(
    weight: Float[Tensor, "o i"], inverse: Float[Tensor, "i i"], groups: Groups | None = None
) -> tuple[Float[Tensor, "o steps"], Int[Tensor, "o steps"]]:
    """What each removal costs, `w_p² / (H⁻¹)_pp`, and which column goes, in each row's own order.

    Hassibi & Stork 1992: the weight `p` of least cost goes, the others change by `−w_p (H⁻¹)_p: / (H⁻¹)_pp`, and `H⁻¹`
    becomes the inverse without `p`, `H⁻¹ − (H⁻¹)_:p (H⁻¹)_p: / (H⁻¹)_pp`. For `i` inputs a row takes `i³ / 3`
    steps. With a pattern, what is left of groups that have lost their share stays (Frantar, Singh & Alistarh 2022).
    """
    at_once = max(1, ROW_BYTES.get(weight.device.type, ROW_BYTES["cpu"]) // inverse.nbytes)
    parts = [_removals(rows, inverse, groups) for rows in weight.split(at_once)]
    return torch.cat([losses for losses, _ in parts]), torch.cat([columns for _, columns in parts])


def _removals(weight: Tensor, inverse: Tensor, groups: Groups | None) -> tuple[Tensor, Tensor]:
    rows, size = weight.shape
    # Without a pattern a row is one group that loses all.
    of, share = (size, size) if groups is None else (groups.of, groups.of - groups.keep)
    lost = torch.zeros(rows, size // of, dtype=torch.long, device=weight.device)
    each = torch.arange(rows, device=weight.device)
    inverse, weight = inverse.repeat(rows, 1, 1), weight.clone()
    columns = torch.arange(size, device=weight.device).repeat(rows, 1)
    gone = torch.zeros_like(weight, dtype=torch.bool)
    steps = size // of * share
    losses, removed = weight.new_empty(rows, steps), columns.new_empty(rows, steps)
    for step in range(steps):
        if size - step <= CROWDED * weight.shape[1]:
            left = (~gone).nonzero()[:, 1].view(rows, -1)
            inverse = inverse[each[:, None, None], left[:, :, None], left[:, None, :]]
            weight, columns, gone = weight.gather(1, left), columns.gather(1, left), torch.zeros_like(left).bool()
        pivots = inverse.diagonal(dim1=1, dim2=2)
        stay = gone if groups is None else gone | (lost.gather(1, columns // of) == share)
        cost, at = (weight.square() / pivots).masked_fill(stay, torch.inf).min(dim=1)
        losses[:, step], removed[:, step] = cost, columns[each, at]
        line, pivot = inverse[each, at], pivots[each, at, None]
        weight -= weight[each, at, None] / pivot * line
        inverse.addcmul_(line[:, :, None], (line / pivot)[:, None, :], value=-1)
        gone[each, at] = True
        lost[each, columns[each, at] // of] += 1
    return losses, removed

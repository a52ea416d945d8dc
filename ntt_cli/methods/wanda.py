"""Wanda: magnitude times the norm of the weight's input, for trained networks. Sun et al. 2023, arXiv 2306.11695."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.methods.snip import leaves_of
from ntt_cli.networks.layer_calls import record_calls
from ntt_cli.tensors import Apply, Masks, Params


@register_method("wanda")
class Wanda(Method):
    """`|w_oi| · ‖x_i‖`, compared within each output."""

    allocation = "layerwise"
    reads = frozenset({"batch_size"})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        norms = layer_input_norms(context.apply, context.params, context.names, context.batches())
        return wanda_scores(context.params, norms, context.names)


def wanda_scores(params: Params, input_norms: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """`|w_oi| · ‖x_i‖`, compared within each output `o`. Sun et al. 2023, arXiv 2306.11695.

    The scores are ranks: every output's best weight comes before any output's second, so that a layer's count is
    spread evenly over its outputs; among equal ranks the product decides.
    A weight, `[o, i...]`, without norms from `layer_input_norms` is scored by `|w_oi|`.
    """
    scores = {}
    for name in names:
        weight = params[name].detach().double().abs().flatten(1)
        product = weight * input_norms[name].flatten() if name in input_norms else weight
        rank = product.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        largest = product.max().clamp_min(torch.finfo(product.dtype).tiny)
        scores[name] = (product / largest / 2 - rank).view(params[name].shape)
    return scores


def layer_input_norms(
    apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """`‖x_i‖` over all samples and positions, for each input of each Linear or Conv2d layer alone, `[i...]`."""
    total: dict[str, Tensor] = {}
    leaves = leaves_of(params)
    for x in batches:
        calls = record_calls(apply, leaves, x).calls
        for name in names:
            for call in calls.get(name, []):
                if call.embeds:
                    continue  # its inputs are indices, which have no norm
                squared = call.inputs().double().square().sum(dim=0).view(params[name].shape[1:])
                total[name] = total[name] + squared if name in total else squared
    return {name: value.sqrt() for name, value in total.items()}

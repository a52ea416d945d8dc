"""SynFlow: the share of each weight in the network's output for ones, without data. Tanaka et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.methods.base import ROUNDS, Method, MethodContext, register_method
from ntt_cli.methods.snip import gradients_of
from ntt_cli.networks.batch_norm import untrained_statistics
from ntt_cli.networks.functional import with_equal_heads
from ntt_cli.tensors import Apply, Masks, Params


@register_method("synflow")
class SynFlow(Method):
    """`|w · ∂R/∂w|` for the output `R` of the network of absolute weights, in 100 rounds."""

    needs = "shape"
    rounds = ROUNDS

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        """`|w · ∂R/∂w|` in double precision, batch norm by statistics of an untrained network."""
        buffers = untrained_statistics(context.teacher, context.teacher.buffers)
        doubled = {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}
        params, ones, plain = context.masked(masks), context.ones(), context.teacher.bind(doubled)
        absolute = {name: p.double().abs() for name, p in params.items()}
        apply = with_equal_heads(plain, context.teacher.heads, lambda: plain(absolute, ones))
        return synflow_scores(apply, params, context.names, ones)


def synflow_scores(apply: Apply, params: Params, names: Sequence[str], ones: Batch) -> dict[str, Tensor]:
    """`|w · ∂R/∂w|` with `R` the sum of all logits for inputs of ones and parameters `|θ|`.

    Without biases the scores into a hidden unit sum to those out of it, so that no layer is emptied before its
    neighbours; meant for many rounds (100). Tanaka et al. 2020, arXiv 2006.05467. Buffers and ones are in double
    precision: products over many layers leave the range of single. At masked parameters a pruned entry scores zero.
    """
    leaves = {name: p.detach().double().abs().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        flow = gradients_of(apply(leaves, ones).sum(), leaves, names)
    return {name: (leaves[name].detach() * part).abs() for name, part in flow.items()}

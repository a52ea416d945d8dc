"""NTT's own score: a weight's magnitude and its effect on the logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ntt_cli.core.functional import Apply, Params
from ntt_cli.core.kernel_product import draw_probe, transposed_product

ACROSS_LAYERS, WITHIN_LAYERS = 1 / 4, 1 / 16
"""How much of a weight's sensitivity counts: where layers compete for the weights, and where each keeps its number."""


def saliency_scores(
    params: Params, sensitivities: Mapping[str, Tensor], names: Iterable[str], *, across_layers: bool
) -> dict[str, Tensor]:
    """`|w| · E[(∂(v·f)/∂w)²]^¼` across layers, and with `¹⁄₁₆` within each.

    With an exponent of ½ it is how far the logits move, to first order, when the weight is removed: the root of optimal
    brain damage's saliency (LeCun et al. 1990) with the Gauss-Newton diagonal for its Hessian, on logits, so that no
    label is needed. With 0 it is the magnitude. Any exponent between knows the paths: a weight into a unit that leads
    nowhere scores zero. A large one also tells which layer needs its weights; within a layer it leaves deep networks
    too few units. Both values gave better networks than others (docs/experiments.md, 10 and 18).

    Args:
        params: the dense parameters, pruned entries at the values they would return with.
        sensitivities: of `logit_sensitivities`.
        names: the weights to score.
        across_layers: the scores of different layers will be compared.
    """
    exponent = ACROSS_LAYERS if across_layers else WITHIN_LAYERS
    return {name: params[name].detach().abs() * sensitivities[name].pow(exponent) for name in names}


def logit_sensitivities(
    apply: Apply,
    params: Params,
    batches: Iterable[Tensor],
    *,
    outputs: int,
    generator: torch.Generator,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """`E[(Jᵀ v)²]` over batches and one Gaussian `v` of shape `[n, c]` each: the diagonal of `Jᵀ J`, estimated.

    Args:
        apply: the network.
        params: where the Jacobian is taken, pruned entries at zero; they have a derivative all the same.
        batches: unlabelled inputs.
        outputs: `c`.
        generator: of the probes.
        chunk: samples that go through the network at once; whole batches by default.
    """
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for x in batches:
        probe = draw_probe((len(x), outputs), like=next(iter(params.values())), generator=generator)
        gradients, _ = transposed_product(apply, params, x, probe, chunk=chunk)
        for name, gradient in gradients.items():
            total[name] += gradient.square()
        del gradients  # before there are the next
        count += len(x)
    return {name: value.div_(count) for name, value in total.items()}

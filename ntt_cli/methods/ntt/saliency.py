"""The saliency of a weight: its magnitude times a power of its sensitivity. The paper's score is the magnitude alone.

The sensitivity is the mean square of the derivative of the outputs with respect to the weight: how much they react to
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.kernels.product import draw_probe, transposed_product
from ntt_cli.networks.functional import outputs_in
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Apply, Params

ACROSS_LAYERS = 1 / 4
"""The exponent of the sensitivities across layers, where scores say how many weights each layer keeps. Smaller
ones do nothing or harm (docs/notebook/16-random-masks.md, 18-depth.md)."""


def exponent_within_layers(layers: int) -> float:
    """`1 / (2 (L − 1))`: the exponent within layers, for `L` layers. One layer gets the exponent of two.

    A path from the inputs to the outputs has `L` weights. The square root of a weight's sensitivity grows with the
    product of the other `L − 1` weights on its paths. Its power `1 / (L − 1)` grows with their geometric mean. So the
    score is the weight times an average of the others, at any depth. With a larger exponent, deep networks keep too few
    units (docs/notebook/18-depth.md). Parallel layers count as if each followed the other.
    """
    return 1 / (2 * max(1, layers - 1))


def saliency_scores(
    params: Params, sensitivities: Mapping[str, Tensor], names: Iterable[str], *, exponent: float
) -> dict[str, Tensor]:
    """`|w| · sensitivity^exponent`, with the sensitivity `E[(∂(v·f)/∂w)²]` over samples and Gaussian `v`.

    With an exponent of 1/2, it is the distance by which the outputs move, to first order, when the weight is removed.
    That is the square root of optimal brain damage's saliency (LeCun et al. 1990), up to a factor, with the diagonal of
    the Gauss-Newton matrix of the outputs as Hessian. It needs no labels. With an exponent of 0, it would be the
    magnitude. With any exponent above 0, a weight into a unit without outgoing weights scores zero.

    The parameters are those before masking: a pruned entry has the value that it would return with. The sensitivities
    are those of `logit_sensitivities`.
    """
    return {name: params[name].detach().abs() * sensitivities[name].pow(exponent) for name in names}


def logit_sensitivities(
    apply: Apply,
    params: Params,
    batches: Iterable[Batch],
    *,
    outputs: int,
    generator: torch.Generator,
    execution: Execution = Execution(),
) -> dict[str, Tensor]:
    """`Σ (J(x)ᵀ v)² / N` over batches `x` of `N` samples in all, with one Gaussian `v`, `[n, c]`, for each batch.

    This estimates the diagonal of `J(x)ᵀ J(x)`, averaged over samples. The Jacobian is taken at `params`, pruned
    entries at zero. These have a derivative too: it says whether they should return. The passes run in this process.
    """
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for x in batches:
        probe = draw_probe(
            (batch_size(x), outputs_in(x, outputs)), like=next(iter(params.values())), generator=generator
        )
        gradients, _ = transposed_product(apply, params, x, probe, execution=execution)
        for name, gradient in gradients.items():
            total[name] += gradient.square()
        del gradients  # before the next ones are computed
        count += batch_size(x)
    return {name: value.div_(count) for name, value in total.items()}

"""The score of a weight: its magnitude and its effect on the logits. The paper's is the magnitude alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ntt_cli.kernels.product import draw_probe, transposed_product
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Apply, Params

ACROSS_LAYERS = 1 / 4
"""The exponent of the sensitivities where layers compete, and scores say how many weights each keeps."""


def within_layers(layers: int) -> float:
    """`1 / 2(L − 1)`: the exponent among a layer's own weights, of `L` layers, at least two.

    The root of a sensitivity goes with the product of the `L − 1` other weights on a path, and this power of it
    with their geometric mean: together they count for one weight, at any depth. With a larger exponent deep networks
    keep too few units (docs/notebook/18-depth.md). Layers side by side are counted as if in a row.
    """
    return 1 / (2 * max(1, layers - 1))


def saliency_scores(
    params: Params, sensitivities: Mapping[str, Tensor], names: Iterable[str], *, exponent: float
) -> dict[str, Tensor]:
    """`|w| · E[(∂(v·f)/∂w)²]^exponent`.

    With an exponent of ½ it is how far the logits move, to first order, when the weight is removed: the root of optimal
    brain damage's saliency (LeCun et al. 1990) with the Gauss-Newton diagonal for its Hessian, on logits, so that no
    label is needed. With 0 it would be the magnitude. Exponents between the two respect paths: a weight into a
    unit without outputs scores zero.

    Args:
        params: the dense parameters, pruned entries at the values they would return with.
        sensitivities: of `logit_sensitivities`.
        names: the weights to score.
        exponent: above 0.
    """
    return {name: params[name].detach().abs() * sensitivities[name].pow(exponent) for name in names}


def logit_sensitivities(
    apply: Apply,
    params: Params,
    batches: Iterable[Tensor],
    *,
    outputs: int,
    generator: torch.Generator,
    execution: Execution = Execution(),
) -> dict[str, Tensor]:
    """`E[(Jᵀ v)²]` over batches and one Gaussian `v` of shape `[n, c]` each: the diagonal of `Jᵀ J`, estimated.

    Args:
        apply: the network.
        params: where the Jacobian is taken, pruned entries at zero; they have a derivative all the same.
        batches: unlabelled inputs.
        outputs: `c`.
        generator: of the probes.
        execution: of the passes, in this process alone.
    """
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for x in batches:
        probe = draw_probe((len(x), outputs), like=next(iter(params.values())), generator=generator)
        gradients, _ = transposed_product(apply, params, x, probe, execution=execution)
        for name, gradient in gradients.items():
            total[name] += gradient.square()
        del gradients  # before the next ones are computed
        count += len(x)
    return {name: value.div_(count) for name, value in total.items()}

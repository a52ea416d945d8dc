"""Matrix-free products with the neural tangent kernel: one `vjp` and one `jvp`, no Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import jvp

from ntt_cli.core.functional import Apply, Masks, Params


@dataclass(frozen=True)
class Answers:
    """What a network says of both halves of a batch.

    Attributes:
        logits1: `f(x1)`, `[n, c]`.
        logits2: `f(x2)`, `[m, c]`.
    """

    logits1: Tensor
    logits2: Tensor


@dataclass(frozen=True)
class KernelProduct(Answers):
    """`K v` and the logits that fall out on the way.

    Attributes:
        product: `K v`, `[n, c]`.
    """

    product: Tensor


def kernel_product(
    apply: Apply,
    params: Params,
    x1: Shaped[Tensor, "n *features"],
    x2: Shaped[Tensor, "m *features"],
    probe: Float[Tensor, "m c"],
    *,
    active: Masks | None = None,
    create_graph: bool = False,
) -> KernelProduct:
    """`K v = J(x1) (J(x2)ᵀ v)` for `K = J(x1) J(x2)ᵀ` of shape `[n, m, c, c]`, which is never formed.

    Costs one backward pass on `x2` and one forward-mode pass on `x1`, whatever the number of outputs.

    Args:
        apply: the network, `apply(params, x) -> [batch, c]`, differentiable in reverse and in forward mode.
        params: the point at which the kernel is taken.
        x1: inputs of the kernel's rows.
        x2: inputs of the kernel's columns.
        probe: `v`.
        active: restrict the derivative to the entries where these masks are `True`, or 1; others count whole.
        create_graph: keep the graph, so that the result can be differentiated with respect to `params`.
    """
    if not create_graph:
        params = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        logits2 = apply(params, x2)
        cotangents = torch.autograd.grad(
            logits2, list(params.values()), probe, create_graph=create_graph, materialize_grads=True
        )
    tangents = dict(zip(params, cotangents, strict=True))
    if active is not None:
        tangents |= {name: tangents[name] * mask for name, mask in active.items()}
    with torch.set_grad_enabled(create_graph):
        # `forward_ad` itself costs less, but the gradient of its softmax fails (pytorch/pytorch#162350).
        forward = jvp(lambda p: apply(p, x1), (params,), (tangents,))
        logits1, product = forward[0], forward[1]
    return KernelProduct(product=product, logits1=logits1, logits2=logits2 if create_graph else logits2.detach())


def answers(
    apply: Apply,
    params: Params,
    x1: Shaped[Tensor, "n *features"],
    x2: Shaped[Tensor, "m *features"],
    probe: Float[Tensor, "m c"] | None,
    *,
    active: Masks | None = None,
    create_graph: bool = False,
) -> Answers:
    """`kernel_product`, or without a probe the logits alone, for a third of the cost."""
    if probe is not None:
        return kernel_product(apply, params, x1, x2, probe, active=active, create_graph=create_graph)
    with torch.set_grad_enabled(create_graph):
        logits1, logits2 = apply(params, torch.cat([x1, x2])).split([len(x1), len(x2)])
    return Answers(logits1=logits1, logits2=logits2)


def draw_probe(shape: Sequence[int], *, like: Tensor, generator: torch.Generator) -> Tensor:
    """A standard Gaussian `v`, so that `E‖A v‖² = ‖A‖²_F`; drawn on the generator's device, returned on `like`'s."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype).to(like.device)

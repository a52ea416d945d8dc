"""Matrix-free products with the neural tangent kernel: one `vjp` and one `jvp`, no Jacobian.

`K = J(x1) J(x2)ᵀ` is the neural tangent kernel between the halves of a batch (Jacot et al. 2018, arXiv 1806.07572).
Liu & Zenke 2020, arXiv 2006.08228, match the student's kernel with the teacher's. They compute both; here neither is
formed. Both are multiplied by one random probe `v`: `E‖A v‖² = ‖A‖²_F` for any matrix `A`, so for `A = K_s − K_t` too.

In shapes, `n` and `m` count the samples of `x1` and `x2`, and `c` the outputs of the network. All outputs have a kernel
together: `K v` sums over `m` and over the second `c`.

`networks/second_order.py` replaces operations inside these passes whose derivatives PyTorch lacks, gets wrong or takes
slowly. Nothing else here depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from ntt_cli.data.batch import Batch, batch_size, concatenate
from ntt_cli.kernels.backward import (
    add_gradients,
    gradients_of,
    leaves_of,
    micro_batches,
    values_and_backward,
    without_graph,
)
from ntt_cli.masks.masks import masked
from ntt_cli.networks.second_order import heavy_once_differentiable, twice_differentiable
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Apply, Masks, Params


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for both halves of a batch, `f(x1)`, `[n, c]`, and `f(x2)`, `[m, c]`."""

    logits1: Tensor
    logits2: Tensor


@dataclass(frozen=True)
class OutputsAndProduct(Outputs):
    """`K v`, `[n, c]`, and the outputs: the two passes that give `K v` compute them as well."""

    product: Tensor


Pullback = Callable[[Outputs], Params]
"""From the gradient of a scalar with respect to each field of the outputs to its gradient with respect to each
parameter."""


def kernel_vector_product(
    apply: Apply,
    params: Params,
    x1: Batch,
    x2: Batch,
    probe: Float[Tensor, "m c"],
    *,
    active: Masks | None = None,
    execution: Execution = Execution(),
) -> OutputsAndProduct:
    """`K v = J(x1) (J(x2)ᵀ v)` for `K = J(x1) J(x2)ᵀ` of shape `[n, m, c, c]`, which is never formed.

    Costs one backward pass on `x2` and one forward-mode pass on `x1`, whatever the number of outputs.

    Args:
        apply: the network, `apply(params, x) -> [batch, c]`, differentiable in reverse and in forward mode.
        params: the point at which the kernel is taken.
        x1: inputs of the kernel's rows.
        x2: inputs of the kernel's columns.
        probe: `v`.
        active: take the derivatives `J` with respect to the entries that these masks keep alone; the masks are bools or
            bits (`as_bits`). Parameters without a mask count whole. `None`: all entries, pruned ones too.
        execution: of the passes. Where several processes share `x1` and `x2`, each process gets the outputs and the
            rows of `K v` for its own share.
    """
    leaves = leaves_of(params)
    tangents, logits2 = transposed_product(apply, leaves, x2, probe, execution=execution)
    tangents = _restricted(execution.all_reduce(tangents), active)
    logits1, product = without_graph(lambda x: _forward_mode(apply, leaves, tangents, x), x1, execution)
    return OutputsAndProduct(product=product, logits1=logits1, logits2=logits2)


def compute_outputs(
    apply: Apply,
    params: Params,
    x1: Batch,
    x2: Batch,
    probe: Float[Tensor, "m c"] | None,
    *,
    active: Masks | None = None,
    execution: Execution = Execution(),
) -> Outputs:
    """`kernel_vector_product`; without a probe the outputs alone, for a third of the cost."""
    if probe is not None:
        return kernel_vector_product(apply, params, x1, x2, probe, active=active, execution=execution)
    (logits,) = without_graph(lambda x: (apply(params, x),), concatenate([x1, x2]), execution)
    logits1, logits2 = logits.split([batch_size(x1), batch_size(x2)])
    return Outputs(logits1=logits1, logits2=logits2)


def outputs_and_pullback(
    apply: Apply,
    params: Params,
    x1: Batch,
    x2: Batch,
    probe: Float[Tensor, "m c"] | None,
    *,
    active: Masks | None = None,
    execution: Execution = Execution(),
) -> tuple[Outputs, Pullback]:
    """`compute_outputs`, and its pullback, which may be called once.

    The pullback of `K v = J(x1) J(x2)ᵀ v` follows from the product rule. Let `γ` be the gradient with respect to `K v`.
    Then the gradient with respect to the parameters is

        ∂/∂θ γᵀ J(x1) u + ∂/∂θ vᵀ J(x2) z, with u = J(x2)ᵀ v and z = J(x1)ᵀ γ held constant.

    Each term takes one forward-mode pass and the backward pass through it. So only one half's graph is in memory at a
    time, and nothing is differentiated backwards twice. `z` is the gradient of the first term with respect to `u`, so
    the backward pass of the first term computes it.

    Both terms are sums over samples. Micro-batches of either half, and the shares of several processes, add up to them
    exactly. With more than one micro-batch of `x1`, its forward-mode passes are computed twice. The pullback frees `u`,
    `z` and the parameters one by one, unless the caller still holds them.

    With `execution.keep_graph`, the graph of `u` is kept. Its backward pass from `z` gives the second term too. This
    saves one pass over `x2`, and needs the memory of both halves' graphs. It is ignored where `x2` is more than one
    micro-batch.

    The arguments are those of `kernel_vector_product`; without a probe, the outputs come alone.
    """
    leaves = leaves_of(params)
    if probe is None:
        inputs = concatenate([x1, x2])
        backward, (logits,) = values_and_backward(lambda x: (apply(leaves, x),), inputs, execution)
        logits1, logits2 = logits.split([batch_size(x1), batch_size(x2)])

        def pull_logits(gradients: Outputs) -> Params:
            backward((torch.cat([gradients.logits1, gradients.logits2]),), leaves.values(), ())
            return execution.all_reduce(gradients_of(leaves))

        return Outputs(logits1=logits1, logits2=logits2), pull_logits

    if execution.keep_graph and len(micro_batches(x2, execution)) == 1:
        u, logits2, pull_second = _second_half_with_kept_graph(apply, leaves, x2, probe)
    else:
        u, logits2, pull_second = _second_half(apply, leaves, x2, probe, execution)
    u = leaves_of(_restricted(execution.all_reduce(u), active))
    backward, (logits1, product) = values_and_backward(
        lambda x: _forward_mode(apply, leaves, tangents=u, x=x), x1, execution
    )

    def pull(gradients: Outputs) -> Params:
        assert isinstance(gradients, OutputsAndProduct)
        backward((gradients.logits1, gradients.product), leaves.values(), u.values())
        z = _restricted(execution.all_reduce(gradients_of(u)), active)
        u.clear()
        pull_second(gradients.logits2, z)
        return execution.all_reduce(gradients_of(leaves))

    return OutputsAndProduct(product=product, logits1=logits1, logits2=logits2), pull


def transposed_product(
    apply: Apply,
    params: Params,
    x: Batch,
    probe: Float[Tensor, "n c"],
    *,
    execution: Execution = Execution(),
) -> tuple[Params, Float[Tensor, "n c"]]:
    """`J(x)ᵀ v`, by one backward pass, and the logits. It sums over the samples of this process alone."""
    leaves = leaves_of(params)
    total: Params = {}
    logits = []
    for part, v in zip(micro_batches(x, execution), micro_batches(probe, execution), strict=True):
        with torch.enable_grad(), heavy_once_differentiable():
            out = apply(leaves, part)
        gradients = torch.autograd.grad(out, list(leaves.values()), v, materialize_grads=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            total[name] = total[name] + gradient if name in total else gradient
        logits.append(out.detach())
    return total, torch.cat(logits)


SecondHalf = tuple[Params, Tensor, Callable[[Tensor, Params], None]]
"""`u = J(x2)ᵀ v`, `f(x2)`, and a function of the gradient with respect to `f(x2)` and of `z`.

That function adds the second half's part of the gradient to `.grad` of `θ`: `∂/∂θ vᵀ J(x2) z`, and what flows back
through `f(x2)`. It empties `z`.
"""


def _second_half(apply: Apply, leaves: Params, x2: Batch, probe: Tensor, execution: Execution) -> SecondHalf:
    """Without a graph of `u`: the pullback goes through `x2` once more, in forward mode."""
    u, logits = transposed_product(apply, leaves, x2, probe, execution=execution)

    def pull(logits_gradient: Tensor, z: Params) -> None:
        parts = list(zip(*(micro_batches(whole, execution) for whole in (x2, logits_gradient, probe)), strict=True))
        for number, (x, gradient, v) in enumerate(parts, 1):
            with torch.enable_grad():
                logits_and_product = _forward_mode(apply, leaves, tangents=z, x=x)
            if last := number == len(parts):
                z.clear()
            add_gradients(logits_and_product, (gradient, v), leaves.values(), free=leaves.values() if last else ())

    return u, logits, pull


def _second_half_with_kept_graph(apply: Apply, leaves: Params, x2: Batch, probe: Tensor) -> SecondHalf:
    """With the graph of `u`, which the pullback differentiates backwards: `zᵀ u = vᵀ J(x2) z`."""
    with torch.enable_grad(), twice_differentiable():
        logits = apply(leaves, x2)
        values = torch.autograd.grad(logits, list(leaves.values()), probe, create_graph=True, materialize_grads=True)

    def pull(logits_gradient: Tensor, z: Params) -> None:
        add_gradients((logits, *values), [logits_gradient, *z.values()], leaves.values())

    return {name: u.detach() for name, u in zip(leaves, values, strict=True)}, logits.detach(), pull


def draw_probe(shape: Sequence[int], *, like: Tensor, generator: torch.Generator) -> Tensor:
    """A standard Gaussian `v`, so that `E‖A v‖² = ‖A‖²_F`; drawn on the generator's device, returned on `like`'s."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _forward_mode(apply: Apply, params: Params, tangents: Params, x: Batch) -> tuple[Tensor, Tensor]:
    """The logits, and `J(x)` times the tangents."""
    # `torch.autograd.forward_ad` costs less than `jvp`, but its softmax has no gradient (pytorch/pytorch#162350).
    with twice_differentiable():
        logits, product = jvp(lambda p: apply(p, x), (params,), (tangents,))[:2]
    return logits, product


def _restricted(tangents: Params, active: Masks | None) -> Params:
    """The tangents, zero at pruned entries: so these take no part in the products with `J`."""
    return tangents | {name: masked(tangents[name], mask) for name, mask in (active or {}).items()}

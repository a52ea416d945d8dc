"""Matrix-free products with the neural tangent kernel: one `vjp` and one `jvp`, no Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import jvp
from torch.multiprocessing.reductions import StorageWeakRef

from ntt_cli.masks.masks import masked
from ntt_cli.networks.second_order import heavy_once_differentiable, twice_differentiable
from ntt_cli.runtime.sharing import Sum, alone
from ntt_cli.tensors import Apply, Masks, Params


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


Pullback = Callable[[Answers], Params]
"""From the gradient of a scalar by each answer to its gradient by each parameter."""


def kernel_product(
    apply: Apply,
    params: Params,
    x1: Shaped[Tensor, "n *features"],
    x2: Shaped[Tensor, "m *features"],
    probe: Float[Tensor, "m c"],
    *,
    active: Masks | None = None,
    chunk: int | None = None,
    total: Sum = alone,
) -> KernelProduct:
    """`K v = J(x1) (J(x2)ᵀ v)` for `K = J(x1) J(x2)ᵀ` of shape `[n, m, c, c]`, which is never formed.

    Costs one backward pass on `x2` and one forward-mode pass on `x1`, whatever the number of outputs.

    Args:
        apply: the network, `apply(params, x) -> [batch, c]`, differentiable in reverse and in forward mode.
        params: the point at which the kernel is taken.
        x1: inputs of the kernel's rows.
        x2: inputs of the kernel's columns.
        probe: `v`.
        active: restrict the derivative to the entries that these masks keep, bools or bits; others count whole.
        chunk: samples that go through the network at once; all by default.
        total: sums over the processes that share `x1` and `x2`; each gets the answers for its own share.
    """
    leaves = _leaves(params)
    tangents, logits2 = transposed_product(apply, leaves, x2, probe, chunk=chunk)
    tangents = _restricted(total(tangents), active)
    logits1, product = _without_graph(lambda x: _forward_mode(apply, leaves, tangents, x), x1, chunk)
    return KernelProduct(product=product, logits1=logits1, logits2=logits2)


def answers(
    apply: Apply,
    params: Params,
    x1: Shaped[Tensor, "n *features"],
    x2: Shaped[Tensor, "m *features"],
    probe: Float[Tensor, "m c"] | None,
    *,
    active: Masks | None = None,
    chunk: int | None = None,
    total: Sum = alone,
) -> Answers:
    """`kernel_product`, or without a probe the logits alone, for a third of the cost."""
    if probe is not None:
        return kernel_product(apply, params, x1, x2, probe, active=active, chunk=chunk, total=total)
    (logits,) = _without_graph(lambda x: (apply(params, x),), torch.cat([x1, x2]), chunk)
    logits1, logits2 = logits.split([len(x1), len(x2)])
    return Answers(logits1=logits1, logits2=logits2)


def answers_and_pullback(
    apply: Apply,
    params: Params,
    x1: Shaped[Tensor, "n *features"],
    x2: Shaped[Tensor, "m *features"],
    probe: Float[Tensor, "m c"] | None,
    *,
    active: Masks | None = None,
    keep_graph: bool = False,
    chunk: int | None = None,
    total: Sum = alone,
) -> tuple[Answers, Pullback]:
    """`answers`, and a function, to be called once, that takes gradients by them back to the parameters.

    With `γ` the gradient by the product `p = J(x1) J(x2)ᵀ v`, that by the parameters is
    `∂/∂θ γᵀ J(x1) u + ∂/∂θ vᵀ J(x2) w`, where `u = J(x2)ᵀ v` and `w = J(x1)ᵀ γ` are held. Each term is one forward-mode
    pass and the backward pass through it, so the graph of one half at a time is in memory, and nothing is
    differentiated backwards twice. Sums over samples, both split exactly into chunks of either half, and into
    shares of several processes; with more than one chunk of `x1` their forward-mode passes are made again. Taking
    gradients back lets go of `u`, `w` and the parameters weight by weight, so that they make room if nobody else
    holds them.

    Args:
        apply: as for `kernel_product`, and the others alike.
        params: the point.
        x1: inputs of the kernel's rows.
        x2: inputs of the kernel's columns.
        probe: `v`; `None` for the logits alone.
        active: as there.
        keep_graph: hold the graph of `u` until it is differentiated backwards by `w`, which is the second term too: a
            pass over `x2` less, for the memory of both halves' graphs. Not where `x2` is split into chunks.
        chunk: as there.
        total: as there.
    """
    leaves = _leaves(params)
    if probe is None:
        inputs = torch.cat([x1, x2])
        replay, (logits,) = _with_graph(lambda x: (apply(leaves, x),), inputs, chunk)
        logits1, logits2 = logits.split([len(x1), len(x2)])

        def pull_logits(gradients: Answers) -> Params:
            replay((torch.cat([gradients.logits1, gradients.logits2]),), leaves.values(), ())
            return total(_gradients(leaves))

        return Answers(logits1=logits1, logits2=logits2), pull_logits

    if keep_graph and len(_chunks(x2, chunk)) == 1:
        tangents, logits2, pull_second = _second_half_kept(apply, leaves, x2, probe)
    else:
        tangents, logits2, pull_second = _second_half(apply, leaves, x2, probe, chunk)
    tangents = _leaves(_restricted(total(tangents), active))
    replay, (logits1, product) = _with_graph(lambda x: _forward_mode(apply, leaves, tangents, x), x1, chunk)

    def pull(gradients: Answers) -> Params:
        assert isinstance(gradients, KernelProduct)
        replay((gradients.logits1, gradients.product), leaves.values(), tangents.values())
        others = _restricted(total(_gradients(tangents)), active)
        tangents.clear()
        pull_second(gradients.logits2, others)
        return total(_gradients(leaves))

    return KernelProduct(product=product, logits1=logits1, logits2=logits2), pull


def transposed_product(
    apply: Apply,
    params: Params,
    x: Shaped[Tensor, "n *features"],
    probe: Float[Tensor, "n c"],
    *,
    chunk: int | None = None,
) -> tuple[Params, Float[Tensor, "n c"]]:
    """`J(x)ᵀ v`, one backward pass, and the logits; `chunk` samples at most go through the network at once."""
    leaves = _leaves(params)
    total: Params = {}
    logits = []
    for part, v in zip(_chunks(x, chunk), _chunks(probe, chunk), strict=True):
        with torch.enable_grad(), heavy_once_differentiable():
            out = apply(leaves, part)
        gradients = torch.autograd.grad(out, list(leaves.values()), v, materialize_grads=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            total[name] = total[name] + gradient if name in total else gradient
        logits.append(out.detach())
    return total, torch.cat(logits)


SecondHalf = tuple[Params, Tensor, Callable[[Tensor, Params], None]]
"""`u = J(x2)ᵀ v`, the logits, and what adds `∂/∂θ vᵀ J(x2) w`, and a gradient by the logits, to `.grad` of `θ`."""


def _second_half(apply: Apply, leaves: Params, x2: Tensor, probe: Tensor, chunk: int | None) -> SecondHalf:
    products, logits = transposed_product(apply, leaves, x2, probe, chunk=chunk)

    def pull(by_logits: Tensor, others: Params) -> None:
        parts = list(zip(*(_chunks(t, chunk) for t in (x2, by_logits, probe)), strict=True))
        for number, (x, gradient, v) in enumerate(parts, 1):
            with torch.enable_grad():
                outputs = _forward_mode(apply, leaves, others, x)
            if last := number == len(parts):
                others.clear()
            _backward(outputs, (gradient, v), leaves.values(), spent=leaves.values() if last else ())

    return products, logits, pull


def _second_half_kept(apply: Apply, leaves: Params, x2: Tensor, probe: Tensor) -> SecondHalf:
    with torch.enable_grad(), twice_differentiable():
        logits = apply(leaves, x2)
        products = torch.autograd.grad(logits, list(leaves.values()), probe, create_graph=True, materialize_grads=True)

    def pull(by_logits: Tensor, others: Params) -> None:
        _backward((logits, *products), [by_logits, *others.values()], leaves.values())

    return {name: u.detach() for name, u in zip(leaves, products, strict=True)}, logits.detach(), pull


def draw_probe(shape: Sequence[int], *, like: Tensor, generator: torch.Generator) -> Tensor:
    """A standard Gaussian `v`, so that `E‖A v‖² = ‖A‖²_F`; drawn on the generator's device, returned on `like`'s."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _forward_mode(apply: Apply, params: Params, tangents: Params, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and `J(x)` times the tangents."""
    # `forward_ad` itself costs less, but the gradient of its softmax fails (pytorch/pytorch#162350).
    with twice_differentiable():
        logits, product = jvp(lambda p: apply(p, x), (params,), (tangents,))[:2]
    return logits, product


Outputs = tuple[Tensor, ...]
Replay = Callable[[Outputs, Iterable[Tensor], Iterable[Tensor]], None]


def _without_graph(run: Callable[[Tensor], Outputs], x: Tensor, chunk: int | None) -> Outputs:
    with torch.no_grad():
        return tuple(torch.cat(parts) for parts in zip(*map(run, _chunks(x, chunk)), strict=True))


def _with_graph(run: Callable[[Tensor], Outputs], x: Tensor, chunk: int | None) -> tuple[Replay, Outputs]:
    """Outputs over all chunks, detached, and what adds a gradient by them to `.grad` of inputs: once, it frees them.

    Inputs that are spent are of no more use after it.
    """
    chunks = _chunks(x, chunk)
    graphs: list[Outputs] = []
    if len(chunks) == 1:
        with torch.enable_grad():
            graphs.append(run(x))
        values = tuple(output.detach() for output in graphs[0])
    else:
        values = _without_graph(run, x, chunk)

    def replay(gradients: Outputs, inputs: Iterable[Tensor], spent: Iterable[Tensor]) -> None:
        into = [*inputs, *spent]
        for i, part in enumerate(chunks):
            with torch.enable_grad():
                outputs = graphs.pop() if graphs else run(part)
            last = i == len(chunks) - 1
            _backward(outputs, [_chunks(g, chunk)[i] for g in gradients], into, spent=spent if last else ())

    return replay, values


def _backward(
    outputs: Outputs, gradients: Sequence[Tensor], inputs: Iterable[Tensor], *, spent: Iterable[Tensor] = ()
) -> None:
    """Add to `.grad` of the inputs; the values of those that are spent are freed, each once its gradient is whole."""
    for leaf in spent:
        leaf.register_post_accumulate_grad_hook(_free)
    # A tangent of a network that is linear in its parameters depends on none of them.
    there = [(output, g) for output, g in zip(outputs, gradients, strict=True) if output.requires_grad]
    if there:
        leaves = list(inputs)
        torch.autograd.backward([output for output, _ in there], [g for _, g in there], inputs=leaves)
        _part_gradients(leaves)


def _part_gradients(leaves: Iterable[Tensor]) -> None:
    """Copy gradients that lie in each other's memory: of one sample that of a class token may in that of positions.

    Both would be added to at once (`backward` keeps what it gets, and looks for no other that shares it).
    """
    seen = set()
    for leaf in leaves:
        if leaf.grad is not None:
            memory = StorageWeakRef(leaf.grad.untyped_storage())
            if memory in seen:
                leaf.grad.data = leaf.grad.clone()  # the leaf may be freed, and take no gradient any more
            seen.add(memory)


def _free(leaf: Tensor) -> None:
    leaf.data = leaf.data.new_empty(0)


def _leaves(params: Params) -> Params:
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def _gradients(leaves: Params) -> Params:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in leaves.items()}


def _restricted(tangents: Params, active: Masks | None) -> Params:
    return tangents | {name: masked(tangents[name], mask) for name, mask in (active or {}).items()}


def _chunks(x: Tensor, size: int | None) -> tuple[Tensor, ...]:
    return torch.split(x, size or len(x))

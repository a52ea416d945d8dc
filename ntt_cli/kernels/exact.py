"""The exact neural tangent kernel, all outputs, for reports, spectra, tests and small models.

Each sample goes through the network alone, so a layer may have its batch axis anywhere, and only first derivatives are
needed. The kernel is a sum over parameters. Each term is computed in the cheaper of two ways: from the parameter's rows
of the Jacobian or, for the weight of a Linear, Conv2d or Embedding layer, from the layer's inputs and
output gradients (Novak et al. 2022, "Fast Finite Width Neural Tangent Kernel", arXiv 2206.08720). Normalisation
layers use rows: these have as few entries as there are channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ntt_cli.data.batch import Batch, batch_size, split
from ntt_cli.kernels.backward import leaves_of
from ntt_cli.networks.flops import count_flops
from ntt_cli.networks.layer_calls import RecordedPass, record_calls
from ntt_cli.tensors import Apply, Masks, Params

PASS_FLOPS = 2**26
"""The number of floating-point operations that take as long as PyTorch's overhead of one pass."""


def exact_kernel(
    apply: Apply,
    params: Params,
    x1: Batch,
    x2: Batch,
    *,
    active: Masks | None = None,
    memory_bytes: int = 2**30,
) -> Float[Tensor, "n m c c"]:
    """The kernel `K = J(x1) J(x2)ᵀ` itself, without a graph.

    Costs one backward pass a sample and output; passing one batch as both `x1` and `x2` halves that.

    Args:
        apply: the network, `apply(params, x) -> [batch, c]`, in which no sample influences another.
        params: the point at which the kernel is taken.
        x1: inputs of the kernel's rows.
        x2: inputs of the kernel's columns.
        active: restrict the derivative to the entries where these masks are `True`; other parameters count whole.
        memory_bytes: the most memory for derivatives at a time, without the kernel. With less memory, samples go
            through the network more often. One sample's derivative with respect to one parameter is in memory whatever
            the limit.
    """
    leaves = leaves_of(params)
    symmetric = x1 is x2
    passes = (record_calls(apply, leaves, sample) for x in ((x1,) if symmetric else (x1, x2)) for sample in split(x, 1))
    parts, logits = _plan(passes, leaves, active or {})
    n, m = batch_size(x1), batch_size(x2)
    kernel = logits.new_zeros(n, m, logits.shape[1], logits.shape[1])
    limit = memory_bytes // (2 * kernel.element_size())
    for group in _groups(parts, limit):
        step = max(1, limit // max(1, sum(part.elements for part in group)))
        rows, columns = split(x1, step), split(x2, step)
        for i in range(0, n, step):
            left = _derivatives(apply, leaves, group, rows[i // step])
            for j in range(i if symmetric else 0, m, step):
                diagonal = symmetric and i == j
                right = left if diagonal else _derivatives(apply, leaves, group, columns[j // step])
                for first, second in zip(left, right, strict=True):
                    share = first.times(second)
                    kernel[i : i + step, j : j + step] += share
                    if symmetric and not diagonal:
                        kernel[j : j + step, i : i + step] += share.permute(1, 0, 3, 2)
    return kernel


def kernel_flops(apply: Apply, params: Params, x: Batch, *, samples: int, outputs: int) -> int:
    """About how many floating-point operations the kernel between `samples` samples and themselves takes.

    Each backward pass, of one sample and output, counts `PASS_FLOPS` at least, however small the network.
    """
    leaves = leaves_of(params)
    recorded = record_calls(apply, leaves, x)
    pair = 0
    for name, leaf in leaves.items():
        least = outputs**2 * leaf.numel()
        if calls := recorded.calls.get(name):
            positions, embeds = sum(call.positions for call in calls), any(call.embeds for call in calls)
            least = min(least, _factor_products(leaf.shape, positions, outputs, embeds))
        pair += 2 * least
    forward = count_flops(apply, params, x, {}).dense
    return samples * (samples + 1) // 2 * pair + samples * outputs * (3 * forward + PASS_FLOPS)


class _Slot(NamedTuple):
    """Where a gradient is taken and where it goes: `place[k] = arrange(gradient of output k at source)`."""

    source: GradientEdge
    place: Tensor
    arrange: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Derivative:
    """The derivative with respect to one parameter, as rows of the Jacobian or as their two factors.

    Without `inputs`, the rows are `grads[n,c,p]`. With `inputs`, `J[n,c,o,i] = Σ_t grads[n,c,t,o] inputs[n,t,i]` over a
    layer's positions `t`. An embedding's inputs are one-hot vectors, stored as their indices `[n,t]`; −1 stands for
    zeros.
    """

    grads: Tensor
    inputs: Tensor | None

    def times(self, other: _Derivative) -> Tensor:
        """The parameter's share of the kernel, `[n, m, c, c]`."""
        if self.inputs is None or other.inputs is None:
            return torch.einsum("ncp,mdp->nmcd", self.grads, other.grads)
        columns = []
        for inputs, grads in zip(other.inputs, other.grads, strict=True):  # sample by sample, to bound the memory
            overlap = _products(self.inputs, inputs).to(grads.dtype)
            moved = torch.einsum("nts,ncto->ncso", overlap, self.grads)
            columns.append(moved.flatten(-2) @ grads.flatten(-2).T)
        return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class _Part:
    """How the derivative with respect to one parameter is stored: as rows, or with `positions` as factors."""

    name: str
    leaf: Tensor
    kept: Tensor | None  # positions of the kept entries in the flattened parameter
    outputs: int
    positions: int | None
    embeds: bool = False

    @property
    def elements(self) -> int:
        """The numbers in memory for one sample, with the intermediate results of `_Derivative.times`."""
        if self.positions is None:
            return self.outputs * self._row_length
        fan_out, fan_in = _fans(self.leaf.shape, self.embeds)
        return self.positions * (2 * self.outputs * fan_out + fan_in)

    @property
    def _row_length(self) -> int:
        return self.leaf.numel() if self.kept is None else len(self.kept)

    def zeros(self, samples: int) -> _Derivative:
        if self.positions is None:
            return _Derivative(grads=self.leaf.new_zeros(samples, self.outputs, self._row_length), inputs=None)
        fan_out, fan_in = _fans(self.leaf.shape, self.embeds)
        inputs = self.leaf.new_zeros(samples, self.positions, fan_in)
        return _Derivative(
            grads=self.leaf.new_zeros(samples, self.outputs, self.positions, fan_out),
            inputs=inputs[:, :, 0].long() if self.embeds else inputs,
        )

    def slots(self, derivative: _Derivative, sample: int, recorded: RecordedPass) -> list[_Slot]:
        """Fill in the sample's inputs, and say which gradients are still to come."""
        grads = derivative.grads[sample]
        if derivative.inputs is None:
            return [_Slot(get_gradient_edge(self.leaf), grads, self._entries)]
        slots = []
        start = 0
        for call in recorded.calls[self.name]:
            stop = start + call.positions
            derivative.inputs[sample, start:stop] = call.inputs()
            slots.append(_Slot(call.output, grads[:, start:stop], call.arrange))
            start = stop
        return slots

    def _entries(self, grad: Tensor) -> Tensor:
        return grad.flatten() if self.kept is None else grad.flatten()[self.kept]


def _plan(passes: Iterable[RecordedPass], leaves: Params, active: Masks) -> tuple[list[_Part], Tensor]:
    """How to store each derivative, the same for all samples; and one sample's logits, for their shape."""
    positions: Counter[str] = Counter()
    embeddings: set[str] = set()
    as_rows = set(active)
    for recorded in passes:
        as_rows |= leaves.keys() - recorded.calls.keys()
        positions |= Counter({name: sum(call.positions for call in calls) for name, calls in recorded.calls.items()})
        embeddings |= {name for name, calls in recorded.calls.items() if any(call.embeds for call in calls)}
    outputs = recorded.logits.shape[1]
    parts = []
    for name, leaf in leaves.items():
        kept = active[name].flatten().nonzero()[:, 0] if name in active else None
        if name in as_rows:
            parts.append(_Part(name, leaf, kept, outputs, positions=None))
        elif positions[name]:  # otherwise the network does not use it
            embeds = name in embeddings
            cheaper = _factors_are_cheaper(leaf.shape, positions[name], outputs, embeds)
            parts.append(_Part(name, leaf, kept, outputs, positions[name] if cheaper else None, embeds))
    return parts, recorded.logits.detach()


def _factors_are_cheaper(shape: Sequence[int], positions: int, outputs: int, embeds: bool) -> bool:
    return _factor_products(shape, positions, outputs, embeds) < outputs**2 * math.prod(shape)


def _factor_products(shape: Sequence[int], positions: int, outputs: int, embeds: bool) -> int:
    """Multiplications for a pair of samples, as `_Derivative.times` makes them."""
    fan_out, fan_in = _fans(shape, embeds)
    return positions * (positions * (fan_in + outputs * fan_out) + outputs**2 * fan_out)


def _fans(shape: Sequence[int], embeds: bool) -> tuple[int, int]:
    """The numbers of a layer's outputs and inputs at one position; an embedding's input is one index."""
    return (shape[1], 1) if embeds else (shape[0], math.prod(shape[1:]))


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Of inputs at positions `[..., t, i]` and `[s, i]`, or of rows `[..., t]` and `[s]`: `[..., t, s]`."""
    if left.is_floating_point():
        return left @ right.T
    return (left[..., None] == right) & (right >= 0)


def _groups(parts: Iterable[_Part], limit: int) -> list[list[_Part]]:
    """Groups of parameters whose derivatives for one sample stay within `limit` numbers."""
    groups: list[list[_Part]] = []
    left = 0
    for part in parts:
        if not groups or part.elements > left:
            groups.append([])
            left = limit
        groups[-1].append(part)
        left -= part.elements
    return groups


def _derivatives(apply: Apply, leaves: Params, parts: Sequence[_Part], x: Batch) -> list[_Derivative]:
    derivatives = [part.zeros(batch_size(x)) for part in parts]
    for i, sample in enumerate(split(x, 1)):
        recorded = record_calls(apply, leaves, sample)
        slots = [
            slot for part, stored in zip(parts, derivatives, strict=True) for slot in part.slots(stored, i, recorded)
        ]
        sources = [slot.source for slot in slots]
        for k, cotangent in enumerate(torch.eye(recorded.logits.shape[1]).to(recorded.logits)):
            grads = torch.autograd.grad(recorded.logits, sources, cotangent[None], retain_graph=True, allow_unused=True)
            for slot, grad in zip(slots, grads, strict=True):
                if grad is not None:
                    slot.place[k] = slot.arrange(grad)
    return derivatives

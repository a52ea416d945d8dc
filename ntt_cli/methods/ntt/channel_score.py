"""The saliency of a channel: by how much the outputs move when all weights that use it are set to zero.

A channel could be given a gate, a factor of 1 that its users multiply it by. To first order, setting the gate to zero
moves the outputs `f` by their derivative with respect to it, which is `Σ w · ∂f/∂w` over the weights `w` that use the
channel. The saliency is the mean square of that over samples. It counts what the weights of a channel do together,
where a sum of their own saliencies would also count what cancels. It needs no labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size, split
from ntt_cli.data.bundle import Bundle
from ntt_cli.kernels.product import draw_probe, transposed_product
from ntt_cli.masks.channels import Channels
from ntt_cli.networks.functional import outputs_in
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Apply, Params

SAMPLES_A_PROBE = 16
"""Each so many samples have a probe: more probes are less noise, and cost the same."""


@dataclass(frozen=True)
class Probes:
    """Gaussian probes of a network with so many outputs, and how the passes with them are carried out."""

    outputs: int
    generator: torch.Generator
    execution: Execution = Execution()

    def draw(self, x: Batch, params: Params) -> Tensor:
        """A probe for a batch, `[n, c]`."""
        shape, like = (batch_size(x), outputs_in(x, self.outputs)), next(iter(params.values()))
        return draw_probe(shape, like=like, generator=self.generator)


def channel_saliencies(
    apply: Apply,
    params: Params,
    batches: Iterable[Batch],
    channels: Channels,
    probes: Probes,
) -> list[Tensor]:
    """`Σ (Σ w · J(x)ᵀ v)² / N` by group and channel, over `N` samples `x`, with Gaussian `v` for each few of them."""
    total = [torch.zeros(group.size, dtype=torch.float64) for group in channels.groups]
    count = 0
    for x in (part for batch in batches for part in _few(batch)):
        gradients, _ = transposed_product(apply, params, x, probes.draw(x, params), execution=probes.execution)
        moved = {name: params[name].detach() * gradients[name] for name in channels.shapes}
        for found, group in zip(total, channels.groups, strict=True):
            found += group.sums(moved, used=True).square()
        count += batch_size(x)
    return [found / count for found in total]


def _few(batch: Batch) -> Iterable[Batch]:
    size = batch_size(batch)
    if isinstance(batch, Bundle) or size <= SAMPLES_A_PROBE:
        return [batch]
    whole, rest = divmod(size, SAMPLES_A_PROBE)
    parts: Iterable[Batch] = split(batch, [SAMPLES_A_PROBE] * whole + [rest] * (rest > 0))
    return parts

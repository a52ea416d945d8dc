"""Variance repair: each output channel gets back the variance that it has in the dense network.

After REPAIR, Jordan et al. 2022, arXiv 2211.08403, and Adaptive Signal Resuscitation, Zhan et al. 2026, arXiv
2605.21426. The shrinkage of the latter is left out. Where batch norm follows a layer and its statistics are estimated
anew, as they are here, they undo any scale of a channel: then this is magnitude with recalibrated batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_cli.methods.base import MethodContext, register_method
from ntt_cli.methods.layerwise import Layer, LayerwiseMethod, fixed_masks
from ntt_cli.tensors import Masks


@register_method("asr")
class ASR(LayerwiseMethod):
    """The weights under another method's mask, `magnitude`'s by default, times one factor for each output channel."""

    reads = LayerwiseMethod.reads | {"mask"}
    takes_mask = True

    def choose(self, context: MethodContext) -> Masks:
        return fixed_masks(context)

    def solve(self, layer: Layer) -> tuple[Tensor, Tensor]:
        assert layer.mask is not None
        masked, count = layer.weight * layer.mask, 0
        sums = layer.weight.new_zeros(2, 2, *layer.weight.shape[:2])  # of values and squares, dense and pruned
        for dense, x in layer.pairs():
            count += x.shape[1]
            for network, outputs in enumerate((layer.weight @ dense.double().mT, masked @ x.double().mT)):
                sums[network, 0] += outputs.sum(dim=-1)
                sums[network, 1] += outputs.square().sum(dim=-1)
        before, after = (square / count - (total / count).square() for total, square in sums)
        # A channel that no longer varies has nothing to scale.
        factor = torch.where(after > torch.finfo(torch.float32).eps * before, before / after, 1.0).sqrt()
        return layer.mask, masked * factor[..., None]

"""A sanity check: NTT's mask, shuffled within each layer, on the teacher's weights.

Frankle et al. 2021, arXiv 2009.08576.
"""

from __future__ import annotations

import torch

from ntt_cli.masks.allocation import SlicesByName
from ntt_cli.masks.masks import choose_masks
from ntt_cli.methods.base import MethodContext, Pruned, register_method
from ntt_cli.methods.ntt.method import NTT
from ntt_cli.tensors import Masks


@register_method("ntt-shuffled")
class NTTShuffled(NTT):
    """It tells how much NTT's layer counts are worth without its choice within each layer."""

    def prune(self, context: MethodContext) -> Pruned:
        """The teacher's weights under the shuffled masks."""
        student = self.transfer(context)
        generator = torch.Generator().manual_seed(context.settings.seed)
        masks = shuffled(student.masks, slices=context.settings.slices, generator=generator)
        return context.pruned(context.params, masks, student.history)


def shuffled(masks: Masks, *, slices: SlicesByName, generator: torch.Generator) -> Masks:
    """Each layer's mask with its entries in random order. Weights in `slices` keep what every slice must."""
    drawn = {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view(mask.shape)
        for name, mask in masks.items()
        if name not in slices
    }
    scores = {name: torch.rand(masks[name].shape, generator=generator).to(masks[name].device) for name in slices}
    drawn |= choose_masks(scores, {name: int(masks[name].sum()) for name in slices}, slices=slices)
    return {name: drawn[name] for name in masks}

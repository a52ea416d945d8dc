"""Layer-wise reconstruction: least squares for the weights that a mask keeps. He et al. 2017, arXiv 1707.06168.

For a fixed mask of single weights it is the end point of OBC, Frantar, Singh & Alistarh 2022, arXiv 2208.11580.
"""

from __future__ import annotations

from torch import Tensor

from ntt_cli.methods.base import MethodContext, register_method
from ntt_cli.methods.layerwise import DAMPENING, Layer, LayerwiseMethod, damped, fixed_masks, masked_least_squares
from ntt_cli.tensors import Masks


@register_method("reconstruct")
class Reconstruct(LayerwiseMethod):
    """The weights under another method's mask, `magnitude`'s by default, that come closest to each dense layer."""

    reads = LayerwiseMethod.reads | {"mask"}
    takes_mask = True

    def choose(self, context: MethodContext) -> Masks:
        return fixed_masks(context)

    def solve(self, layer: Layer) -> tuple[Tensor, Tensor]:
        assert layer.mask is not None
        hessian, cross = damped(*layer.moments(), dampening=DAMPENING)
        return layer.mask, masked_least_squares(hessian, layer.weight @ cross, layer.mask)

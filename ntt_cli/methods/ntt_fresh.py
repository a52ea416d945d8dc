"""A sanity check: NTT's mask on another draw of random weights. Frankle et al. 2021, arXiv 2009.08576."""

from __future__ import annotations

from ntt_cli.methods.base import MethodContext, Pruned, register_method
from ntt_cli.methods.ntt.method import NTT


@register_method("ntt-fresh")
class NTTFresh(NTT):
    """It tells how much NTT's mask is worth without the weights that it was learnt with."""

    reinitialises = True

    def prune(self, context: MethodContext) -> Pruned:
        """Reinitialised weights under NTT's masks."""
        student = self.transfer(context)
        return context.pruned(context.fresh(), student.masks, student.history)

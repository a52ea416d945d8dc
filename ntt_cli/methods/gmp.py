"""Gradual magnitude pruning: the smallest weights go while the others learn. Zhu & Gupta 2017, arXiv 1710.01878.

The paper trains on labels. Here the steps match the teacher's outputs, as NTT's do for trained weights: so this is NTT
with `|w|` as its score, and tells what NTT's score is worth.
"""

from __future__ import annotations

from dataclasses import replace

from ntt_cli.config import NTTOptions
from ntt_cli.methods.base import MethodContext, register_method
from ntt_cli.methods.ntt.method import TransferMethod
from ntt_cli.methods.ntt.transfer import Transfer


@register_method("gmp")
class GMP(TransferMethod):
    """The largest weights are kept, at a density that falls by the paper's cubic schedule."""

    allocation = "erk"
    kernel_term = False
    reads = frozenset({"batch_size", "checkpoint_every", *NTTOptions.model_fields}) - {
        "preset",
        "mask",
        "score",
        "objective",
        "kernel_params",
        "kernel_weight",
        "weight_penalty",
    }

    def transfer_of(self, context: MethodContext) -> Transfer:
        assert context.inputs is not None
        settings = replace(context.settings, score="magnitude", mask="learned")
        return Transfer(context.teacher, context.inputs, context.names, context.outputs, settings)

"""SNIP in 100 rounds, which score and prune alternately. De Jorge et al. 2021, arXiv 2006.09081."""

from __future__ import annotations

from ntt_cli.methods.base import ROUNDS, register_method
from ntt_cli.methods.snip import Snip


@register_method("iterative-snip")
class IterativeSnip(Snip):
    """SNIP, in 100 rounds."""

    rounds = ROUNDS

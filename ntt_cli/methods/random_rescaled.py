"""A random mask, whose kept weights grow so that what comes out of a layer keeps its variance."""

from __future__ import annotations

from ntt_cli.methods.base import register_method
from ntt_cli.methods.random import Random


@register_method("random-rescaled")
class RandomRescaled(Random):
    """Chance, with weights over the square root of their layer's density."""

    rescaled = True

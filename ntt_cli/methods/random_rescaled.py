"""A random mask whose kept weights are rescaled, so that the outputs of each layer keep their variance."""

from __future__ import annotations

from ntt_cli.methods.base import register_method
from ntt_cli.methods.random import Random


@register_method("random-rescaled")
class RandomRescaled(Random):
    """A random mask, with kept weights divided by the square root of their layer's density."""

    rescaled = True

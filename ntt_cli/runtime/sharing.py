"""A batch shared out among several processes: what each of them must hear from the others is sums, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from ntt_cli.tensors import Params

Sum = Callable[[Params], Params]
"""Each tensor's sum over all processes; all of them call it at the same places, in the same order."""


def alone(tensors: Params) -> Params:
    """The sum over one process."""
    return tensors

"""One thread for small networks: they are slower with several."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from ntt_cli.data.inputs import Inputs
from ntt_cli.networks.flops import count_flops
from ntt_cli.networks.functional import FunctionalModel

SMALL_FLOPS = 1_000_000
"""FLOPs of one sample below which a step's operations are too short to share out. It depends on the network alone, so
that two runs of it use the same threads and give the same bytes."""


@contextmanager
def threads_for(model: FunctionalModel, inputs: Inputs) -> Generator[None]:
    """One CPU thread while a small network is worked on; a larger one keeps torch's.

    Yields:
        nothing.
    """
    before = torch.get_num_threads()
    if count_flops(model.bind(), model.params, inputs.batch(torch.arange(1)), {}).dense < SMALL_FLOPS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""One thread for small networks: they are slower with several."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from ntt_cli.data.inputs import Inputs
from ntt_cli.networks.flops import count_flops
from ntt_cli.networks.functional import FunctionalModel

SMALL_FLOPS = 1_000_000
"""With fewer FLOPs a sample, operations are too short for several threads. The limit depends on the network alone, so
that two runs use the same threads and give the same bytes."""


@contextmanager
def threads_for(model: FunctionalModel, inputs: Inputs) -> Generator[None]:
    """A context with one CPU thread for a small network, and torch's own number of threads for a larger one."""
    before = torch.get_num_threads()
    if count_flops(model.bind(), model.params, inputs.batch(torch.arange(1)), {}).dense < SMALL_FLOPS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

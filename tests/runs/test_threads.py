from __future__ import annotations

import pytest
import torch
from torch import nn

from ntt_cli.data import Samples
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import InMemory
from ntt_cli.networks.functional import functional_model
from ntt_cli.runs.threads import threads_for


@pytest.fixture
def _two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(("width", "threads"), [(100, 1), (10_000, 2)])
def test_a_small_network_gets_one_thread_and_the_others_are_given_back(width: int, threads: int) -> None:
    model = functional_model(nn.Linear(100, width))
    inputs = Inputs(Samples("x", InMemory(torch.zeros(1, 100))), None, torch.device("cpu"))
    with threads_for(model, inputs):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2

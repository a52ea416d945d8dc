"""What tests of parts of a run hand to them, and how they look at an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ntt_cli.config import ModelOptions
from ntt_cli.core.functional import FunctionalModel
from ntt_cli.core.standardise import Standardisation
from ntt_cli.errors import NttError
from ntt_cli.io.data.samples import InMemory, Samples
from ntt_cli.io.models import LoadedModel, load_model
from ntt_cli.workflows.prepare import Inputs, take_apart
from tests.networks import write_network

CPU = torch.device("cpu")


def refusal(error: type[NttError], work: Callable[..., Any], *arguments: Any, **options: Any) -> NttError:
    with pytest.raises(error) as caught:
        work(*arguments, **options)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def loaded(name: str) -> LoadedModel:
    return load_model(ModelOptions(model=write_network(name)), seed=0)


def apart(name: str) -> FunctionalModel:
    return take_apart(loaded(name).module, CPU, lambda _: None)


def inputs_of(values: Tensor, labels: Tensor | None = None, by: Standardisation | None = None) -> Inputs:
    return Inputs(Samples("some data", InMemory(values), labels), standardisation=by, device=CPU)

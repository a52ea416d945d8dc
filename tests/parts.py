"""What tests of parts of a run hand to them, and how they look at an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ntt_cli.config import ModelOptions, method_class
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import InMemory, Samples
from ntt_cli.errors import NttError
from ntt_cli.files.metadata import MeanStd
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.loading.models import LoadedModel, load_model
from ntt_cli.networks.prepare import to_functional
from ntt_cli.pruning.job import PruneJob
from ntt_cli.runs.checkpointer import no_checkpoints
from ntt_cli.runs.run import Run
from ntt_cli.runtime.micro_batching import MicroBatching
from tests.small_networks import write_network

CPU = torch.device("cpu")


def refusal(error: type[NttError], work: Callable[..., Any], *arguments: Any, **options: Any) -> NttError:
    with pytest.raises(error) as caught:
        work(*arguments, **options)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def read_of(defaults: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """A test's own options for `ntt prune`, over those of its defaults that the chosen method reads."""
    method, sparsity = chosen.get("method", "ntt"), chosen.get("sparsity")
    reads = method_class(method).reads
    unread = set() if "batch_size" in reads and sparsity != 0 else {"batch_size"}
    if "steps" not in reads or sparsity == 0:
        unread |= {"steps", "mask_update_every"}
    if chosen.get("mask", "learned") != "learned":
        unread |= {"mask_update_every"}
    return {name: value for name, value in defaults.items() if name not in unread} | chosen


def nothing_of(job: PruneJob) -> Run:
    """A run without files, alone."""
    micro_batching = MicroBatching(job.settings.micro_batch, job.settings.batch_size, lambda _: None)
    return Run(lambda _: None, no_checkpoints(), micro_batching)


def loaded(name: str) -> LoadedModel:
    return load_model(ModelOptions(model=write_network(name)), seed=0)


def apart(name: str) -> FunctionalModel:
    return to_functional(loaded(name).module, CPU, lambda _: None)


def inputs_of(values: Tensor, labels: Tensor | None = None, by: MeanStd | None = None) -> Inputs:
    return Inputs(Samples("some data", InMemory(values), labels), mean_std=by, device=CPU)

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ntt_cli as ntt
from tests.api.objects import equal, network, refusal, samples
from tests.cli.conftest import Ntt
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples(64)


def finetune(model: Any = None, data: Any = (X, Y), **options: Any) -> ntt.FinetuneResult:
    return ntt.finetune(network() if model is None else model, data, **{"epochs": 2} | options)


def test_the_result_is_what_the_command_writes(command: Ntt) -> None:
    model = write_network("plain")
    ntt.prune(model, sparsity=0.8, steps=3, limit=100).save("sparse.safetensors")
    small = ("--epochs", "2", "--seed", "3", "--limit", "100")
    typed = command(
        "finetune", model, "--checkpoint", "sparse.safetensors", *small, "--json", "-o", "typed.safetensors"
    )
    assert typed.code == 0, typed.err
    options = {"epochs": 2, "seed": 3, "limit": 100}
    result = ntt.finetune(model, checkpoint="sparse.safetensors", **options)
    result.save("saved.safetensors")
    assert Path("saved.safetensors").read_bytes() == Path("typed.safetensors").read_bytes()
    files = {"output": "typed.safetensors", "report": "typed.report.safetensors"}
    assert result.report.model_copy(update=files).model_dump(mode="json") == typed.report
    loaded = ntt.load("sparse.safetensors", model)
    assert equal(ntt.finetune(loaded, **options).model.state_dict(), result.model.state_dict())


def test_zeros_are_held() -> None:
    sparse = ntt.prune(network(), X, sparsity=0.5, method="magnitude")
    before = copy.deepcopy(sparse.model.state_dict())
    tuned = finetune(sparse)
    assert isinstance(tuned, ntt.FinetuneResult)
    assert equal(tuned.masks, sparse.masks)
    values = tuned.model.state_dict()
    assert not any(values[name][~mask].any() for name, mask in tuned.masks.items())
    assert not torch.equal(values["0.weight"], before["0.weight"])
    assert torch.equal(values["4.bias"], before["4.bias"])  # frozen
    assert equal(sparse.model.state_dict(), before)
    assert equal(finetune(sparse).model.state_dict(), values)
    assert tuned.report.density == 0.5
    assert "28 of 56" in repr(tuned)


def test_a_dense_network() -> None:
    dense = finetune()
    assert dense.masks == {}
    assert repr(dense) == "<FinetuneResult of torch.nn.modules.container.Sequential: dense>"
    assert len(dense.report.epochs) == 2
    dense.save("dense.safetensors")
    assert equal(ntt.load("dense.safetensors", network()).model.state_dict(), dense.model.state_dict())


def test_a_network_object_with_a_file_of_weights() -> None:
    sparse = ntt.prune(network(), X, sparsity=0.5, method="magnitude", output="sparse.safetensors")
    tuned = finetune(network(5), checkpoint=Path("sparse.safetensors"))
    assert equal(tuned.masks, sparse.masks)
    assert equal(tuned.model.state_dict(), finetune(sparse).model.state_dict())


def test_data_in_all_forms_gives_the_same() -> None:
    dataset = TensorDataset(X, Y)
    forms = [(X, Y), [X, Y], (X.numpy(), Y.numpy()), dataset, DataLoader(dataset, batch_size=7, shuffle=True)]
    first, *others = [finetune(data=form).model.state_dict() for form in forms]
    assert all(equal(other, first) for other in others)


def test_the_network_learns() -> None:
    data = (X, (X[:, 0] > 0).long())
    tuned = finetune(nn.Linear(4, 2), data, epochs=20, learning_rate=0.1)
    assert ntt.evaluate(tuned, data).accuracy > 0.9  # type: ignore[operator]


def test_options_that_do_nothing() -> None:
    assert "warmup=0.1: is less than one of" in refusal(ntt.NttError, finetune, warmup=0.1, epochs=1)
    sparse = ntt.prune(network(), X, sparsity=0.5, method="magnitude")
    assert "says itself which zeros" in refusal(ntt.NttError, finetune, sparse, keep_zeros=True)

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ntt_cli as ntt
from tests.api.objects import equal, left_alone, network, refusal, samples
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples()


@pytest.fixture
def sparse(folder: Path) -> ntt.PruneResult:
    return ntt.prune(network(), X, sparsity=0.5, method="magnitude", output="sparse.safetensors")


def test_what_was_saved_is_loaded(sparse: ntt.PruneResult) -> None:
    other = network(5)
    with left_alone(other):
        loaded = ntt.load(Path("sparse.safetensors"), other)
    assert equal(loaded.masks, sparse.masks)
    assert equal(loaded.model.state_dict(), sparse.model.state_dict())
    assert repr(loaded).startswith("<SparseNetwork of torch.nn.modules.container.Sequential: 28 of 56")


def test_by_a_name() -> None:
    model = write_network("plain")
    saved = ntt.prune(model, sparsity=0.5, method="magnitude", output="sparse.safetensors")
    loaded = ntt.load("sparse.safetensors", model)
    assert equal(loaded.model.state_dict(), saved.model.state_dict())
    assert loaded.class_names == saved.class_names


def test_a_state_dict_of_pytorch() -> None:
    net = network()
    save_file(net.state_dict(), "plain.safetensors")
    loaded = ntt.load("plain.safetensors", network(5))
    assert loaded.masks == {}
    assert equal(loaded.model.state_dict(), net.state_dict())


def test_a_network_that_was_loaded_goes_everywhere(sparse: ntt.PruneResult) -> None:
    loaded = ntt.load("sparse.safetensors", network(5))
    assert ntt.evaluate(loaded, (X, Y)) == ntt.evaluate(sparse, (X, Y))
    tuned = [ntt.finetune(one, (X, Y), epochs=1).model.state_dict() for one in (loaded, sparse)]
    assert equal(*tuned)
    further = [ntt.prune(one, X, sparsity=0.75, method="magnitude").masks for one in (loaded, sparse)]
    assert equal(*further)


def test_files_that_do_not_fit(sparse: ntt.PruneResult) -> None:
    said = refusal(ntt.NttError, ntt.load, "sparse.safetensors", nn.Linear(4, 3))
    assert "belongs to another model" in said
    assert said.endswith("give the network that they were made with")
    assert "does not exist | did you mean sparse" in refusal(ntt.NttError, ntt.load, "spars.safetensors", network())
    data = bytearray(Path("sparse.safetensors").read_bytes())
    data[-3] ^= 1
    Path("bad.safetensors").write_bytes(data)
    assert "is damaged" in refusal(ntt.NttError, ntt.load, "bad.safetensors", network())
    torch.save(network(), "weights.pt")  # a pickle of the network, which would run its code
    assert "weights.pt" in refusal(ntt.NttError, ntt.load, "weights.pt", network())
    torch.save(network().state_dict(), "weights.pt")
    assert not ntt.load("weights.pt", network()).masks


def test_options_that_do_not_fit(sparse: ntt.PruneResult) -> None:
    assert "epochs=3: is not an option" in refusal(ntt.NttError, ntt.load, "sparse.safetensors", network(), epochs=3)
    assert "model_arg=3" in refusal(ntt.NttError, ntt.load, "sparse.safetensors", network(), model_arg=3)
    assert "is a value of type int" in refusal(ntt.NttError, ntt.load, "sparse.safetensors", 3)

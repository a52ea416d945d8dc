from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ntt_cli as ntt
from tests.api.objects import network, refusal, samples
from tests.cli.conftest import Ntt
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples()


def evaluate(model: Any = None, data: Any = (X, Y), **options: Any) -> ntt.EvaluateReport:
    return ntt.evaluate(network() if model is None else model, data, **options)


def test_the_fields_are_those_of_the_command(command: Ntt) -> None:
    model = write_network("plain")
    dense = ntt.finetune(model, epochs=1, limit=100, output="dense.safetensors")
    sparse = ntt.prune(dense, sparsity=0.8, steps=3, limit=100)
    sparse.save("sparse.safetensors")
    typed = command(
        *("evaluate", model, "--checkpoint", "sparse.safetensors", "--teacher", "dense.safetensors"),
        *("--limit", "100", "--json", "--kernels"),
    )
    assert typed.code == 0, typed.err
    named = ntt.evaluate(
        model, checkpoint="sparse.safetensors", teacher=Path("dense.safetensors"), limit=100, kernels=True
    )
    assert named.model_dump(mode="json") == typed.report
    objects = ntt.evaluate(sparse, teacher=dense, limit=100, kernels=True)
    other = {"checkpoint", "file_bytes"}  # nothing is in a file
    assert objects.model_dump(exclude=other) == named.model_dump(exclude=other)
    assert objects.file_bytes is None
    alike = ntt.evaluate(ntt.load("sparse.safetensors", model), teacher=dense.model, limit=100, kernels=True)
    assert alike.model_dump(exclude=other) == named.model_dump(exclude=other)


def test_accuracy_is_that_of_the_network_in_evaluation_mode() -> None:
    net = network()
    predicted = network().eval()(X).argmax(1)
    report = evaluate(net)
    assert report.accuracy is not None
    assert report.accuracy == pytest.approx(float((predicted == Y).double().mean()))
    assert (report.checkpoint, report.density, report.flops_sparse) == ("the network", None, report.flops_dense)


def test_a_sparse_network_and_its_teacher() -> None:
    net = network()
    sparse = ntt.prune(net, X, sparsity=0.5, method="magnitude")
    report = evaluate(sparse, X, teacher=net)
    assert (report.kept, report.prunable, report.density, report.accuracy) == (28, 56, 0.5, None)
    assert report.agreement is not None
    assert report.agreement.logit_distance > 0
    for same in (evaluate(sparse, X, teacher=sparse), evaluate(sparse.model, X, teacher=sparse)):
        assert same.agreement is not None
        assert (same.agreement.logit_distance, same.agreement.top1_agreement) == (0.0, 1.0)


def test_a_network_object_with_a_file_of_weights() -> None:
    sparse = ntt.prune(network(), X, sparsity=0.5, method="magnitude", output="sparse.safetensors")
    report = evaluate(network(5), checkpoint="sparse.safetensors")
    assert (report.kept, report.checkpoint) == (28, "sparse.safetensors")
    assert report.accuracy == evaluate(sparse).accuracy


def test_the_gate() -> None:
    assert evaluate(min_accuracy=0.0).passed is True
    assert evaluate(min_accuracy=1.0).passed is False


def test_teachers_that_cannot_be() -> None:
    assert "teacher: is a value of type OrderedDict" in refusal(ntt.NttError, evaluate, teacher=network().state_dict())
    said = refusal(ntt.NttError, evaluate, data=X, teacher=nn.Linear(4, 3))
    assert said.startswith("the teacher: belongs to another model")
    assert "did you mean" in refusal(ntt.NttError, evaluate, teachr=network())
    assert "they are compared with a teacher's" in refusal(ntt.NttError, evaluate, kernels=True)


def test_a_name_alone_has_no_weights() -> None:
    assert refusal(ntt.NttError, ntt.evaluate, write_network("plain")).startswith("checkpoint: is required")


def test_a_network_on_a_view_of_another() -> None:
    """A part of a larger network is a network."""
    net = network()
    assert evaluate(nn.Sequential(*net[:2], net[4])).parameters == sum(p.numel() for p in net.parameters()) - 3
    assert torch.equal(net[4].bias, network()[4].bias)

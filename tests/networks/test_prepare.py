from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ntt_cli.config import DataOptions
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError, ModelError, UsageError
from ntt_cli.files.metadata import MeanStd, Normalisation
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.normalisation import open_inputs
from ntt_cli.networks.prepare import (
    channels_last,
    laid_out,
    named_gradients,
    pick_prunable,
    takes_channels_last,
    to_functional,
)
from ntt_cli.runs.sources import AS_NAMED
from ntt_cli.runtime.events import Event, Noted, Warned
from ntt_cli.runtime.machine import pick_device
from tests.parts import CPU, apart, inputs_of, loaded, refusal


@pytest.mark.parametrize(("name", "takes"), [("convolutional", True), ("flattens by view", False), ("plain", False)])
def test_channels_last_is_for_convolutions_that_take_it(digits: Inputs, name: str, takes: bool) -> None:
    assert takes_channels_last(apart(name), digits) is takes


def test_channels_last_changes_where_weights_lie_and_not_what_they_are(digits: Inputs) -> None:
    model = apart("convolutional")
    laid = channels_last(model.params)
    assert laid["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(laid[name], value) for name, value in model.params.items())
    x = digits.batch(torch.arange(5))
    assert torch.allclose(model.bind()(laid, x), model.bind()(model.params, x), atol=1e-6)


def test_weights_that_are_used_seldom_keep_their_layout(digits: Inputs) -> None:
    """The second convolution has 2·2 positions, the first 8·8."""
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, stride=4, padding=1)
    model = functional_model(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10)))
    laid = laid_out(model, digits)
    assert laid.params["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert laid.params["1.weight"].is_contiguous()
    assert all(torch.equal(laid.params[name], value) for name, value in model.params.items())
    by_view = apart("flattens by view")
    assert laid_out(by_view, digits) is by_view


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    pick_device("auto")
    error = refusal(UsageError, pick_device, "gpu")
    assert str(error) == "--device gpu: there is no such device here"
    assert error.hint.startswith("use auto or ")
    assert "cpu" in error.hint
    refusal(UsageError, pick_device, "")


def opened(known: Normalisation | None = None, *, model: str = "plain", **options: Any) -> Inputs:
    samples = AS_NAMED.load_samples(DataOptions(**options), loaded(model), split="train")
    return open_inputs(samples, device=CPU, known=known, on_event=lambda _: None)


@pytest.mark.usefixtures("folder")
def test_inputs_are_normalised_by_their_own_statistics() -> None:
    x = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    np.save("x.npy", x)
    inputs = opened(data="x.npy")
    batch = inputs.batch(torch.arange(50)).numpy()
    assert np.allclose(batch, (x - x.mean(0)) / x.std(0), atol=1e-5)
    assert (len(inputs), inputs.batch(torch.tensor([7, 3])).shape) == (50, (2, 4))


@pytest.mark.usefixtures("folder")
def test_it_is_told_what_the_data_are() -> None:
    heard: list[Event] = []
    for options, labelled in (({"data": "digits"}, True), ({"data": "digits", "limit": 5}, False)):
        samples = AS_NAMED.load_samples(DataOptions(**options), loaded("plain"), split="train", labelled=labelled)
        open_inputs(
            samples,
            device=CPU,
            known=Normalisation(None, "nobody"),
            on_event=heard.append,
            labelled=labelled,
        )
    classes = "in 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert heard == [
        Noted(f"data: digits, 1,438 images of [1, 8, 8] {classes}"),
        Noted("inputs: as they are (nobody)"),
        Noted(f"data: digits, 5 images of [1, 8, 8] {classes}; labels are not read"),
        Noted("inputs: as they are (nobody)"),
    ]


@pytest.mark.usefixtures("folder")
def test_known_statistics_go_before_the_datas() -> None:
    np.save("x.npy", np.full((5, 4), 8.0, np.float32))
    for by, expected in ((MeanStd((6.0,), (4.0,)), 0.5), (None, 8.0)):
        known = Normalisation(by, "somebody")
        inputs = opened(known, data="x.npy")
        assert inputs.batch(torch.arange(5)).unique().tolist() == [expected]
        assert inputs.normalisation == known
    assert opened(data="x.npy").batch(torch.arange(5)).unique().tolist() == [0.0]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("known", [None, Normalisation(None, "nobody")], ids=["not known", "as they are"])
def test_tokens_are_left_as_they_are(known: Normalisation | None) -> None:
    np.save("x.npy", np.arange(12).reshape(4, 3))
    inputs = opened(known, data="x.npy")
    assert (inputs.mean_std, inputs.normalisation) == (None, None)
    assert inputs.batch(torch.arange(4)).tolist() == np.arange(12).reshape(4, 3).tolist()


@pytest.mark.parametrize("known", [None, Normalisation(MeanStd((6.0,), (4.0,)), "somebody")])
def test_noise_is_left_as_it_is_and_says_nothing_of_other_data(known: Normalisation | None, folder: Path) -> None:
    inputs = opened(known, data="noise:4000", input_shape="5")
    batch = inputs.batch(torch.arange(4000))
    assert torch.equal(batch, torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)))
    assert inputs.normalisation == known


@pytest.mark.usefixtures("folder")
def test_the_models_data_stand_in_for_data_that_is_not_named() -> None:
    inputs = opened()
    assert (inputs.samples.spec, len(inputs)) == ("digits", 1438)
    error = refusal(DataError, opened, model="tokens")
    assert "--data" in error.hint
    assert "DATA = " in error.hint


def test_batches_in_order_and_some_samples() -> None:
    inputs = inputs_of(torch.arange(10.0)[:, None], torch.arange(10))
    assert [batch.flatten().tolist() for batch in inputs.in_order(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    some = inputs.some(4)
    chosen = some.batch(torch.arange(4)).flatten()
    assert len(chosen.unique()) == 4
    assert chosen.tolist() != [0, 1, 2, 3]
    assert some.labelled(torch.arange(4))[1].tolist() == chosen.tolist()
    assert torch.equal(inputs.some(4).batch(torch.arange(4)).flatten(), chosen)
    assert len(inputs.some(100)) == 10


def test_values_that_are_none(folder: object) -> None:
    assert str(refusal(ModelError, apart, "nan weight")).startswith("fc2.weight: holds NaN or infinity")
    network = nn.BatchNorm1d(3)
    network.running_var[1] = torch.inf
    assert "running_var" in str(refusal(ModelError, to_functional, network, CPU, lambda _: None))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.ones(2, dtype=torch.complex128), "complex128"), (torch.eye(2).to_sparse(), "sparse_coo")],
)
def test_values_that_no_file_can_hold(value: torch.Tensor, kind: str) -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("phases", value)
    error = refusal(ModelError, to_functional, network, CPU, lambda _: None)
    assert str(error) == f"phases: is of type {kind}, which no safetensors file holds"
    assert error.hint == "mend build_model(): register it as another type, dense"


def test_samples_that_depend_on_each_other(folder: object) -> None:
    error = refusal(ModelError, apart, "batch statistics")
    assert "layer 1: normalises by the statistics of its batch" in str(error)
    assert error.hint == "build it with track_running_stats=True"


def test_frozen_parameters_are_named(folder: object) -> None:
    events: list[Event] = []
    to_functional(loaded("partly frozen").module, CPU, events.append)
    assert events == [Warned("frozen parameters stay as they are and dense: fc1.weight, fc1.bias")]
    to_functional(nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))).requires_grad_(False), CPU, events.append)
    assert isinstance(events[1], Warned)
    assert events[1].message.endswith("0.weight, 0.bias, 1.weight, 1.bias, 2.weight and 3 more")


def ignore(_: object) -> None:
    pass


def test_prunable_weights(digits: Inputs) -> None:
    def select_outputs(name: str, *exclude: str) -> tuple[str, ...]:
        return pick_prunable(apart(name), digits, ignore, exclude=exclude, where="net.py")

    assert select_outputs("plain") == ("fc1.weight", "fc2.weight")
    assert select_outputs("plain", "fc2.*") == ("fc1.weight",)
    assert select_outputs("partly frozen") == ("fc2.weight",)
    assert select_outputs("tied") == ("fc1.weight", "fc2.weight", "first.weight")
    assert select_outputs("unused", "idle.*", "spare.*") == ("fc1.weight", "fc2.weight")


@pytest.mark.parametrize(
    ("name", "exclude"), [("no weights", ()), ("frozen", ()), ("plain", ("*",)), ("plain", ("fc1.weight", "fc2*"))]
)
def test_nothing_to_prune(digits: Inputs, name: str, exclude: tuple[str, ...]) -> None:
    error = refusal(ModelError, pick_prunable, apart(name), digits, ignore, exclude=exclude, where="net.py")
    assert "net.py: has no prunable weights" in str(error)
    assert "--exclude" in error.hint


def test_a_pattern_that_excludes_nothing(digits: Inputs) -> None:
    error = refusal(
        UsageError, pick_prunable, apart("plain"), digits, ignore, exclude=("fc2.*", "fc3.*"), where="net.py"
    )
    assert str(error) == "--exclude fc3.*: matches no parameter"
    assert error.hint == "the weights to prune are fc1.weight, fc2.weight"
    for kept_anyway in ("fc1.bias", "*.bias"):
        assert len(pick_prunable(apart("plain"), digits, ignore, exclude=(kept_anyway,), where="net.py")) == 2
    frozen = pick_prunable(apart("partly frozen"), digits, ignore, exclude=("fc1.*",), where="net.py")
    assert frozen == ("fc2.weight",)


@pytest.mark.usefixtures("folder")
def test_embeddings_are_pruned_where_they_are_named() -> None:
    tokens = inputs_of(torch.randint(20, (6, 5)))
    events: list[Event] = []

    def select_outputs(*include: str) -> tuple[str, ...]:
        return pick_prunable(apart("tokens"), tokens, events.append, exclude=(), include=include, where="net.py")

    assert select_outputs() == ("fc.weight",)
    assert select_outputs("emb*") == ("embedding.weight", "fc.weight")
    assert events == [
        Noted("prunable: 24 weights in 1 layer; not: embedding.weight (embedding), which --include NAME would prune"),
        Noted("prunable: 184 weights in 2 layers"),
    ]
    for nothing in ("fc.*", "*.bias", "missing"):
        error = refusal(UsageError, select_outputs, nothing)
        assert str(error) == f"--include {nothing}: makes no more weights prunable"
        assert error.hint == "those to name are embedding.weight"


def test_unused_weights(digits: Inputs) -> None:
    error = refusal(ModelError, pick_prunable, apart("unused"), digits, ignore, exclude=(), where="net.py")
    assert "net.py: never uses idle.weight, spare.weight for its output" in str(error)
    assert error.hint == "--exclude 'idle.weight' --exclude 'spare.weight'"
    error = refusal(ModelError, pick_prunable, apart("detached"), digits, ignore, exclude=(), where="net.py")
    assert "uses fc1.weight, fc2.weight where no gradient is kept: under no_grad()" in str(error)


def test_weights_cannot_be_picked_without_a_gradient(digits: Inputs) -> None:
    error = refusal(ModelError, pick_prunable, apart("overwrites"), digits, ignore, exclude=(), where="net.py")
    assert str(error).startswith(
        "net.py: has no gradient: one of the variables needed for gradient computation has been"
    )


def test_memory_that_runs_out_is_no_fault_of_the_network() -> None:
    with pytest.raises(torch.OutOfMemoryError), named_gradients("net.py"):
        raise torch.OutOfMemoryError("full")


def test_a_state_that_is_written_in_place_gets_a_hint() -> None:
    y = torch.ones(2, requires_grad=True).exp()
    y += 1
    with (
        pytest.raises(ModelError, match="has no gradient: .*modified by an inplace operation") as caught,
        named_gradients("net.py"),
    ):
        y.sum().backward()
    assert caught.value.hint.endswith("set config.use_cache = False")

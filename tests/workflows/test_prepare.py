from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ntt_cli.config import DataOptions, ModelOptions
from ntt_cli.core.functional import FunctionalModel
from ntt_cli.core.logits import usual_logits
from ntt_cli.core.standardise import Standardisation
from ntt_cli.errors import DataError, ModelError, NttError, UsageError
from ntt_cli.io.data.samples import InMemory, Samples
from ntt_cli.io.models import LoadedModel, load_model
from ntt_cli.workflows.checks import check_forward, check_kernel, check_labels, check_training, require_samples
from ntt_cli.workflows.events import Event, Warned
from ntt_cli.workflows.prepare import (
    Inputs,
    channels_last,
    open_inputs,
    pick_device,
    pick_prunable,
    take_apart,
    takes_channels_last,
)
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


@pytest.fixture
def digits(folder: object) -> Inputs:
    return open_inputs(DataOptions(data="digits"), loaded("plain"), split="train", device=CPU, known=None)


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


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    pick_device("auto")
    error = refusal(UsageError, pick_device, "gpu")
    assert str(error) == "--device gpu: there is no such device here"
    assert error.hint.startswith("use auto or ")
    assert "cpu" in error.hint
    refusal(UsageError, pick_device, "")


@pytest.mark.usefixtures("folder")
def test_inputs_are_standardised_by_their_own_statistics() -> None:
    x = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    np.save("x.npy", x)
    inputs = open_inputs(DataOptions(data="x.npy"), loaded("plain"), split="train", device=CPU, known=None)
    batch = inputs.batch(torch.arange(50)).numpy()
    assert np.allclose(batch, (x - x.mean(0)) / x.std(0), atol=1e-5)
    assert (len(inputs), inputs.batch(torch.tensor([7, 3])).shape) == (50, (2, 4))


@pytest.mark.usefixtures("folder")
def test_given_statistics_go_before_known_ones_and_those_before_the_datas() -> None:
    np.save("x.npy", np.full((5, 4), 8.0, np.float32))
    known = Standardisation(mean=(6.0,), std=(4.0,))
    for options, knows, expected in (({"mean": "4", "std": "8"}, known, 0.5), ({}, known, 0.5), ({}, None, 0.0)):
        inputs = open_inputs(
            DataOptions(data="x.npy", **options), loaded("plain"), split="train", device=CPU, known=knows
        )
        assert inputs.batch(torch.arange(5)).unique().tolist() == [expected]


@pytest.mark.usefixtures("folder")
def test_tokens_are_left_as_they_are() -> None:
    np.save("x.npy", np.arange(12).reshape(4, 3))
    inputs = open_inputs(DataOptions(data="x.npy"), loaded("plain"), split="train", device=CPU, known=None)
    assert inputs.standardisation is None
    assert inputs.batch(torch.arange(4)).tolist() == np.arange(12).reshape(4, 3).tolist()


@pytest.mark.usefixtures("folder")
def test_the_models_data_stand_in_for_data_that_is_not_named() -> None:
    inputs = open_inputs(DataOptions(), loaded("plain"), split="test", device=CPU, known=None)
    assert (inputs.samples.spec, len(inputs)) == ("digits", 359)
    error = refusal(DataError, open_inputs, DataOptions(), loaded("tokens"), split="train", device=CPU, known=None)
    assert "--data" in error.hint
    assert "DATA = " in error.hint


def test_batches_in_order_and_some_samples() -> None:
    inputs = inputs_of(torch.arange(10.0)[:, None], torch.arange(10))
    assert [batch.flatten().tolist() for batch in inputs.in_order(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    some = inputs.some(4)
    chosen = some.batch(torch.arange(4)).flatten()
    assert len(chosen.unique()) == 4
    assert chosen.tolist() != [0, 1, 2, 3]
    assert some.labels(torch.arange(4)).tolist() == chosen.tolist()
    assert torch.equal(inputs.some(4).batch(torch.arange(4)).flatten(), chosen)
    assert len(inputs.some(100)) == 10


def test_values_that_are_none(folder: object) -> None:
    assert str(refusal(ModelError, apart, "nan weight")).startswith("fc2.weight: holds NaN or infinity")
    network = nn.BatchNorm1d(3)
    network.running_var[1] = torch.inf
    assert "running_var" in str(refusal(ModelError, take_apart, network, CPU, lambda _: None))


def test_samples_that_depend_on_each_other(folder: object) -> None:
    error = refusal(ModelError, apart, "batch statistics")
    assert "layer 1: normalises by the statistics of its batch" in str(error)
    assert error.hint == "build it with track_running_stats=True"


def test_frozen_parameters_are_named(folder: object) -> None:
    events: list[Event] = []
    take_apart(loaded("partly frozen").module, CPU, events.append)
    assert events == [Warned("frozen parameters stay as they are and dense: fc1.weight, fc1.bias")]
    take_apart(nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))).requires_grad_(False), CPU, events.append)
    assert isinstance(events[1], Warned)
    assert events[1].message.endswith("0.weight, 0.bias, 1.weight, 1.bias, 2.weight and 3 more")


def test_number_of_outputs(digits: Inputs) -> None:
    assert check_forward(apart("plain"), digits, where="net.py") == (10,)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("one dimension", "returns float32 of shape [2] for 2 samples, not a row of logits each"),
        ("classes", "returns int64 of shape [2] for 2 samples"),
        ("nan output", "returns NaN or infinity"),
        ("leaves", "SystemExit: 0"),
    ],
)
def test_outputs_that_are_no_logits(digits: Inputs, name: str, what: str) -> None:
    error = refusal(ModelError, check_forward, apart(name), digits, where="net.py")
    assert error.where == "net.py"
    assert what in str(error)


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.zeros(3, 1, 9, 9), "cannot take inputs of shape [2, 1, 9, 9] and type float32 from some data"),
        (torch.zeros(1, 5), "cannot take inputs of shape [1, 5] and type float32"),
        (torch.zeros(3, 64, dtype=torch.int64), "cannot take inputs of shape [2, 64] and type int64"),
    ],
)
def test_inputs_that_do_not_fit(folder: object, x: Tensor, what: str) -> None:
    error = refusal(ModelError, check_forward, apart("plain"), inputs_of(x), where="net.py")
    assert what in str(error)
    assert "RuntimeError" in str(error)
    assert "--data" in error.hint


def test_training_is_tried_on_a_copy(digits: Inputs) -> None:
    module = loaded("convolutional").module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    check_training(module, usual_logits, digits, batch_size=8, where="net.py")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not module.training


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("tuple in training", "net.py in training mode", "returns a tuple, not one tensor of logits"),
        ("tuple", "net.py in training mode", "returns a tuple, not one tensor of logits"),
        ("dict", "net.py in training mode", "returns a dict, not one tensor of logits"),
        ("small batches fail", "net.py in training mode", "Expected more than 1 value per channel when training"),
        ("frozen", "net.py", "has an output that no trainable parameter acts on"),
        ("detached", "net.py", "has an output that no trainable parameter acts on"),
    ],
)
def test_what_cannot_be_trained(digits: Inputs, name: str, where: str, what: str) -> None:
    error = refusal(ModelError, check_training, loaded(name).module, usual_logits, digits, batch_size=1, where="net.py")
    assert error.where == where
    assert what in str(error)


@pytest.mark.parametrize("name", ["plain", "convolutional", "tied", "partly frozen", "zeros", "unused"])
def test_kernels_that_can_be_taken(digits: Inputs, name: str) -> None:
    for trainable in (False, True):
        check_kernel(apart(name), digits, outputs=10, trainable=trainable, where="net.py")


def test_the_kernel_of_a_linear_network_depends_on_no_weight(digits: Inputs) -> None:
    network = take_apart(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), CPU, lambda _: None)
    check_kernel(network, digits, outputs=10, trainable=True, where="net.py")


def test_a_derivative_that_is_not_finite(digits: Inputs) -> None:
    class Lengths(nn.Module):
        """The norm of an empty row has a first derivative, by torch's convention, and no second."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(64, 5, bias=False), nn.Linear(2, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.stack([x.flatten(1), torch.zeros_like(x.flatten(1))], dim=1)
            return self.head(self.inner(rows).norm(dim=-1))

    network = take_apart(Lengths(), CPU, lambda _: None)
    check_kernel(network, digits, outputs=10, trainable=False, where="net.py")
    error = refusal(ModelError, check_kernel, network, digits, outputs=10, trainable=True, where="net.py")
    assert str(error).startswith(
        "net.py: has an operation with a derivative that is not finite: its kernel's gradient by "
    )
    assert "inner.weight is NaN or infinite" in str(error)


@pytest.mark.parametrize("trainable", [False, True])
def test_an_operation_without_its_derivatives(digits: Inputs, trainable: bool) -> None:
    error = refusal(
        ModelError, check_kernel, apart("one derivative"), digits, outputs=10, trainable=trainable, where="net.py"
    )
    assert error.where == "net.py"
    assert "has an operation without the derivatives that its kernel needs" in str(error)
    assert "jvp" in str(error)


def test_prunable_weights(digits: Inputs) -> None:
    def pick(name: str, *exclude: str) -> tuple[str, ...]:
        return pick_prunable(apart(name), digits, exclude=exclude, where="net.py")

    assert pick("plain") == ("fc1.weight", "fc2.weight")
    assert pick("plain", "fc2.*") == ("fc1.weight",)
    assert pick("partly frozen") == ("fc2.weight",)
    assert pick("tied") == ("fc1.weight", "fc2.weight", "first.weight")
    assert pick("unused", "idle.*", "spare.*") == ("fc1.weight", "fc2.weight")


@pytest.mark.parametrize(
    ("name", "exclude"), [("no weights", ()), ("frozen", ()), ("plain", ("*",)), ("plain", ("fc1.weight", "fc2*"))]
)
def test_nothing_to_prune(digits: Inputs, name: str, exclude: tuple[str, ...]) -> None:
    error = refusal(ModelError, pick_prunable, apart(name), digits, exclude=exclude, where="net.py")
    assert "net.py: has no prunable weights" in str(error)
    assert "--exclude" in error.hint


def test_unused_weights(digits: Inputs) -> None:
    error = refusal(ModelError, pick_prunable, apart("unused"), digits, exclude=(), where="net.py")
    assert "net.py: never uses idle.weight, spare.weight for its output" in str(error)
    assert error.hint == "--exclude 'idle.weight' --exclude 'spare.weight'"
    error = refusal(ModelError, pick_prunable, apart("detached"), digits, exclude=(), where="net.py")
    assert "never uses fc1.weight, fc2.weight" in str(error)


def test_labels() -> None:
    x = torch.zeros(4, 2)
    check_labels(inputs_of(x, torch.tensor([0, 1, 2, 2])), shape=(3,), purpose="")
    error = refusal(DataError, check_labels, inputs_of(x, torch.tensor([0, 1, 3, 4])), shape=(3,), purpose="")
    assert str(error) == "some data: label 3 of sample 2 is out of range: the model has 3 outputs"
    error = refusal(DataError, check_labels, inputs_of(x), shape=(3,), purpose="they are needed")
    assert str(error) == "some data: has no labels; they are needed"
    assert "one folder a class" in error.hint


def test_too_few_samples() -> None:
    require_samples(inputs_of(torch.zeros(4, 2)), 4)
    error = refusal(DataError, require_samples, inputs_of(torch.zeros(3, 2)), 4)
    assert str(error) == "some data: has 3 samples, 4 are needed"

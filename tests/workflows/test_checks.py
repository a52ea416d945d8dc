from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from ntt_cli.core.functional import functional_model
from ntt_cli.core.logits import NoSuchOutput, usual_logits
from ntt_cli.errors import DataError, ModelError, NttError
from ntt_cli.workflows.checks import (
    check_forward,
    check_kernel,
    check_labels,
    check_training,
    find_kernel,
    require_samples,
)
from ntt_cli.workflows.events import Event, Warned
from ntt_cli.workflows.prepare import Inputs, take_apart
from tests.core.test_operations import Around, both_ways
from tests.workflows.parts import CPU, apart, inputs_of, loaded, refusal

OTHER_DATA = "name other data with --data, change the images with --image-size or --grayscale, or the model"
OTHER_BATCH = "try another --batch-size or other data with --data, or mend the model"
PICK = "define logits(outputs) in model.py to pick them"


def told(error: NttError) -> tuple[str, str]:
    return str(error), error.hint


def test_number_of_outputs(digits: Inputs) -> None:
    assert check_forward(apart("plain"), digits, print, where="net.py") == (10,)


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        (
            "one dimension",
            "returns float32 of shape [2] for 2 samples, not a row of logits each",
            f"return a tensor [2, outputs], or {PICK}",
        ),
        (
            "classes",
            "returns int64 of shape [2] for 2 samples, not a row of logits each",
            f"return a tensor [2, outputs], or {PICK}",
        ),
        ("nan output", "returns NaN or infinity", "check the weights and the scale of the inputs"),
        (
            "leaves",
            "cannot take inputs of shape [2, 1, 8, 8] and type float32 from digits: SystemExit: 0",
            OTHER_DATA,
        ),
        (
            "double",
            "cannot take inputs of shape [2, 1, 8, 8] and type float32 from digits: RuntimeError: mat1 and mat2 must"
            " have the same dtype, but got Float and Double",
            "inputs are float32, and some weights float64: return network.float() from its factory",
        ),
    ],
)
def test_outputs_that_are_no_logits(digits: Inputs, name: str, what: str, hint: str) -> None:
    error = refusal(ModelError, check_forward, apart(name), digits, print, where="net.py")
    assert told(error) == (f"net.py: {what}", hint)


@pytest.mark.parametrize("logits", [torch.zeros(3, 10), torch.zeros(2, 10, dtype=torch.int64), torch.zeros(2)])
def test_a_row_of_real_numbers_for_each_sample(digits: Inputs, logits: Tensor) -> None:
    network = replace(apart("plain"), pick=lambda _: logits)
    error = refusal(ModelError, check_forward, network, digits, print, where="net.py")
    kind = "int64" if logits.dtype == torch.int64 else "float32"
    assert str(error).startswith(f"net.py: returns {kind} of shape {list(logits.shape)} for 2 samples")


def test_what_picks_the_logits_may_fail(digits: Inputs) -> None:
    def missing(_: object) -> Tensor:
        raise NoSuchOutput("has no output scores")

    def broken(_: object) -> Tensor:
        raise KeyError("scores")

    def leaves(_: object) -> Tensor:
        raise SystemExit(3)

    network = apart("plain")
    error = refusal(ModelError, check_forward, replace(network, pick=missing), digits, print, where="net.py")
    assert told(error) == ("net.py: has no output scores", f"name the logits with --logits, or {PICK}")
    for pick, what in ((broken, "KeyError: 'scores'"), (leaves, "SystemExit: 3")):
        error = refusal(ModelError, check_forward, replace(network, pick=pick), digits, print, where="net.py")
        assert told(error) == (f"net.py: logits(outputs) raised {what}", "mend that function in model.py")


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.zeros(3, 1, 9, 9), "cannot take inputs of shape [2, 1, 9, 9] and type float32 from some data"),
        (torch.zeros(1, 5), "cannot take inputs of shape [1, 5] and type float32 from some data"),
        (torch.zeros(3, 64, dtype=torch.int64), "cannot take inputs of shape [2, 64] and type int64 from some data"),
    ],
)
def test_inputs_that_do_not_fit(folder: object, x: Tensor, what: str) -> None:
    error = refusal(ModelError, check_forward, apart("plain"), inputs_of(x), print, where="net.py")
    assert str(error).startswith(f"net.py: {what}: RuntimeError: mat1 and mat2 ")
    assert error.hint == OTHER_DATA


def test_training_is_tried_on_a_copy(digits: Inputs) -> None:
    module = loaded("convolutional").module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_training(module, usual_logits, digits, batch_size=8, where="net.py")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.training


def test_a_network_that_training_cannot_differentiate(digits: Inputs) -> None:
    module = loaded("overwrites").module
    error = refusal(ModelError, check_training, module, usual_logits, digits, batch_size=4, where="net.py")
    assert str(error).startswith(
        "net.py: has no gradient: one of the variables needed for gradient computation has been"
    )
    assert ";" not in str(error)
    assert error.hint == "mend that operation: the network cannot be trained; --debug shows where it is"


def test_trying_to_train_draws_nothing(digits: Inputs) -> None:
    random = torch.get_rng_state()
    check_training(loaded("dropout").module, usual_logits, inputs_of(torch.zeros(4, 1, 8, 8)), batch_size=4, where="")
    assert torch.equal(torch.get_rng_state(), random)


def test_training_is_tried_on_one_batch(digits: Inputs) -> None:
    sizes: list[int] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            assert self.training
            sizes.append(len(x))
            return self.inner(x.flatten(1))

    check_training(Watched().eval(), usual_logits, digits, batch_size=24, where="net.py")
    check_training(Watched().eval(), usual_logits, inputs_of(torch.zeros(5, 1, 8, 8)), batch_size=24, where="net.py")
    assert sizes == [24, 5]


@pytest.mark.parametrize(
    ("name", "where", "what", "hint"),
    [
        ("tuple in training", "net.py in training mode", "returns a tuple, not one tensor of logits", "--logits 0 or"),
        ("tuple", "net.py in training mode", "returns a tuple, not one tensor of logits", "--logits 0 or --logits 1"),
        ("dict", "net.py in training mode", "returns a dict, not one tensor of logits", "--logits"),
        ("small batches fail", "net.py in training mode", "Expected more than 1 value per channel", OTHER_BATCH),
        (
            "frozen",
            "net.py",
            "has an output that no trainable parameter acts on",
            "check requires_grad, detach() and no_grad()",
        ),
        (
            "detached",
            "net.py",
            "has an output that no trainable parameter acts on",
            "check requires_grad, detach() and no_grad()",
        ),
    ],
)
def test_what_cannot_be_trained(digits: Inputs, name: str, where: str, what: str, hint: str) -> None:
    error = refusal(ModelError, check_training, loaded(name).module, usual_logits, digits, batch_size=1, where="net.py")
    assert error.where == where
    assert f": {what}" in str(error)
    assert error.hint.startswith(hint)


def test_outputs_without_tensors(digits: Inputs) -> None:
    network = replace(apart("plain"), pick=lambda _: 3)
    error = refusal(ModelError, check_forward, network, digits, print, where="net.py")
    assert told(error) == ("net.py: returns an int, not one tensor of logits", f"return them, or {PICK}")


@pytest.mark.parametrize("name", ["plain", "convolutional", "tied", "partly frozen", "zeros", "unused"])
def test_kernels_that_can_be_taken(digits: Inputs, name: str) -> None:
    for trainable in (False, True):
        check_kernel(apart(name), digits, outputs=10, trainable=trainable, where="net.py")


def test_the_kernel_of_a_linear_network_depends_on_no_weight(digits: Inputs) -> None:
    network = take_apart(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), CPU, lambda _: None)
    check_kernel(network, digits, outputs=10, trainable=True, where="net.py")


class Lengths(nn.Module):
    """The norm of an empty row has a first derivative, by torch's convention, and no second."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(64, 5, bias=False), nn.Linear(2, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.stack([x.flatten(1), torch.zeros_like(x.flatten(1))], dim=1)
        return self.head(self.inner(rows).norm(dim=-1))


def test_a_derivative_that_is_not_finite(digits: Inputs) -> None:
    network = take_apart(Lengths(), CPU, lambda _: None)
    check_kernel(network, digits, outputs=10, trainable=False, where="net.py")
    error = refusal(ModelError, check_kernel, network, digits, outputs=10, trainable=True, where="net.py")
    assert told(error) == (
        "net.py: has an operation with a derivative that is not finite: its kernel's gradient by inner.weight is NaN or"
        " infinite",
        "look behind it for a norm or a square root of zero, and add a small number inside, or match the logits alone"
        " with --kernel-weight 0",
    )


def test_a_kernel_that_is_not_finite(digits: Inputs) -> None:
    class Root(nn.Module):
        """The square root's slope at zero is infinite, and hidden behind a maximum it is NaN."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return (0 * self.inner(x.flatten(1))).sqrt()

    network = take_apart(Root(), CPU, lambda _: None)
    error = refusal(ModelError, check_kernel, network, digits, outputs=10, trainable=False, where="net.py")
    assert told(error) == (
        "net.py: has an operation with a derivative that is not finite: its kernel is NaN or infinite",
        "look behind it for a norm or a square root of zero, and add a small number inside",
    )


@pytest.mark.parametrize("trainable", [False, True])
def test_an_operation_without_its_derivatives(digits: Inputs, trainable: bool) -> None:
    error = refusal(
        ModelError, check_kernel, apart("one derivative"), digits, outputs=10, trainable=trainable, where="net.py"
    )
    assert error.where == "net.py"
    assert "has an operation without the derivatives that its kernel needs: " in str(error)
    assert "jvp" in str(error)
    assert "\n" not in str(error)
    assert not str(error).endswith(".")
    instead = ", or match the logits alone with --kernel-weight 0" if trainable else ""
    assert error.hint == f"write that operation in terms of torch's own{instead}; --debug shows where it is"


def test_an_operation_with_a_wrong_second_derivative(digits: Inputs) -> None:
    network = apart("wrong derivative")
    check_kernel(network, digits, outputs=10, trainable=False, where="net.py")  # the first is right
    error = refusal(ModelError, check_kernel, network, digits, outputs=10, trainable=True, where="net.py")
    what = "has an operation whose second derivative is wrong: two ways to its kernel's gradient by fc1.weight differ"
    assert str(error) == f"net.py: {what}"
    assert error.hint.endswith("or match the logits alone with --kernel-weight 0")


@pytest.mark.usefixtures("folder")
def test_one_pair_of_samples_is_not_enough_to_refuse() -> None:
    """Rounding may put a unit of one of them on the other side of its threshold."""

    class WrongOnOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = loaded("wrong derivative").module

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x) if float(x[0, 0]) > 0 else self.inner.fc2(self.inner.fc1(x).relu().square())
            return out

    network = functional_model(WrongOnOne())
    x = torch.rand(40, 64, generator=torch.Generator().manual_seed(0)) - 1
    x[:38, 0] = 1.0
    check_kernel(network, inputs_of(x), outputs=10, trainable=True, where="net.py")
    x[38:, 0] = 1.0
    error = refusal(ModelError, check_kernel, network, inputs_of(x), outputs=10, trainable=True, where="net.py")
    assert "second derivative is wrong" in str(error)


def solved(x: Tensor) -> Tensor:
    return (
        torch.linalg.solve(x[:, :4].view(-1, 2, 2) + 2 * torch.eye(2), x[:, 4:].unsqueeze(-1)).flatten(1).repeat(1, 3)
    )


def times_determinant(x: Tensor) -> Tensor:
    return x * torch.linalg.det(x[:, :4].view(-1, 2, 2)).view(-1, 1)


@pytest.mark.parametrize("name", ["solve", "det", "orthogonal", "orthogonal by cayley"])
def test_what_torch_differentiates_wrongly_is_refused(name: str) -> None:
    """Or it is right, in a later torch."""
    torch.manual_seed(0)
    before, between = {
        "solve": (nn.Linear(4, 6), solved),
        "det": (nn.Linear(4, 6), times_determinant),
        "orthogonal": (orthogonal(nn.Linear(4, 6)), torch.tanh),
        "orthogonal by cayley": (orthogonal(nn.Linear(4, 6), orthogonal_map="cayley"), torch.tanh),
    }[name]
    module, x = Around(before, between, nn.Linear(6, 10)), torch.randn(8, 4)
    right = all(torch.allclose(*pair, rtol=1e-3, atol=1e-4) for pair in zip(*both_ways(module, x, x), strict=True))
    refused = False
    try:
        check_kernel(functional_model(module), inputs_of(x), outputs=10, trainable=True, where="net.py")
    except ModelError:
        refused = True
    assert refused != right


def test_rounding_to_few_bits_is_no_other_way(digits: Inputs) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layers(x)

    torch.manual_seed(0)
    check_kernel(functional_model(Half()), digits, outputs=10, trainable=True, where="net.py")


def test_a_random_network_has_no_two_ways(digits: Inputs) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(64, 30), nn.Linear(30, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.dropout(self.inner(x.flatten(1)).tanh(), 0.5, training=True))

    check_kernel(functional_model(Random()), digits, outputs=10, trainable=True, where="net.py")


def test_a_kernel_that_is_to_be_matched_must_be_there(digits: Inputs) -> None:
    events: list[Event] = []
    error = refusal(
        ModelError, find_kernel, apart("one derivative"), digits, events.append, outputs=10, matched=True, where="a.py"
    )
    assert error.where == "a.py"
    assert not events
    assert find_kernel(apart("plain"), digits, events.append, outputs=10, matched=True, where="a.py")
    assert find_kernel(apart("plain"), digits, events.append, outputs=10, matched=False, where="a.py")
    assert not events


def test_a_kernel_that_is_only_measured_may_be_missing(digits: Inputs) -> None:
    events: list[Event] = []
    network = apart("one derivative")
    assert not find_kernel(network, digits, events.append, outputs=10, matched=False, where="a.py")
    (event,) = events
    assert isinstance(event, Warned)
    assert event.message.startswith("a.py: has an operation without the derivatives that its kernel needs: ")
    assert event.message.endswith("; no kernel distance is measured")


@pytest.mark.parametrize("what", ["has no formula.", "has no formula.\nAnd more"])
def test_an_error_of_torch_in_one_line(digits: Inputs, what: str) -> None:
    def raises(_: object) -> Tensor:
        raise RuntimeError(what)

    network = replace(apart("plain"), pick=raises)
    error = refusal(ModelError, check_kernel, network, digits, outputs=10, trainable=False, where="a.py")
    assert str(error) == "a.py: has an operation without the derivatives that its kernel needs: has no formula"


def test_a_kernel_that_is_only_measured_needs_no_second_derivative(digits: Inputs) -> None:
    network = take_apart(Lengths(), CPU, lambda _: None)
    assert find_kernel(network, digits, lambda _: None, outputs=10, matched=False, where="a.py")
    refusal(ModelError, find_kernel, network, digits, lambda _: None, outputs=10, matched=True, where="a.py")


@pytest.mark.parametrize(
    ("labels", "shape"),
    [
        ([0, 1, 2, 2], (3,)),
        ([0, -100, 2, -100], (3,)),
        ([[0, 1], [2, -100], [0, 0], [1, 1]], (2, 3)),
    ],
)
def test_labels_that_fit(labels: list[int], shape: tuple[int, ...]) -> None:
    heard: list[Event] = []
    check_labels(inputs_of(torch.zeros(4, 2), torch.tensor(labels)), heard.append, shape=shape, purpose="")
    assert heard == []


@pytest.mark.parametrize(
    ("names", "labels", "warned"),
    [
        (("cat", "dog"), [0, 1] * 30, "2"),
        (("cat", "dog"), [0, 1], "2"),  # names are no guess
        (("cat", "dog", "eel"), [0, 1] * 30, None),
        (None, [0, 1] * 30, "2"),
        (None, [0, 1] * 29, None),
        (None, [0, 2] * 30, None),
    ],
)
def test_outputs_without_a_class_are_a_warning(
    names: tuple[str, ...] | None, labels: list[int], warned: str | None
) -> None:
    inputs = inputs_of(torch.zeros(len(labels), 2), torch.tensor(labels))
    heard: list[Event] = []
    named = replace(inputs, samples=replace(inputs.samples, class_names=names))
    check_labels(named, heard.append, shape=(3,), purpose="")
    expected = f"some data has {warned} classes, and the network 3 outputs: some have no class"
    assert heard == ([] if warned is None else [Warned(expected)])


@pytest.mark.parametrize(
    ("labels", "shape", "what", "hint"),
    [
        (
            [0, 1, 3, 4],
            (3,),
            "label 3 of sample 2 is out of range: the model has 3 outputs",
            "mend the labels, or build the model with more outputs (--model-arg)",
        ),
        (
            [0, 1, 1, -1],
            (3,),
            "label -1 of sample 3 is out of range: the model has 3 outputs",
            "mend the labels, or build the model with more outputs (--model-arg)",
        ),
        (
            [[0, 1], [1, 9], [9, 1], [0, 0]],
            (2, 3),
            "label 9 of sample 1 is out of range: the model has 3 outputs",
            "mend the labels, or build the model with more outputs (--model-arg)",
        ),
        (
            [[0, 1], [1, 0], [0, 0], [1, 1]],
            (3,),
            "has labels of shape [4, 2] for logits of shape [4, 3]",
            "save one whole number for each row of logits, not one-hot rows, or pick others with --logits",
        ),
        (
            [-100, -100, -100, -100],
            (3,),
            "has no label but -100, which counts for nothing",
            "name labelled data",
        ),
        (
            None,
            (3,),
            "has no labels; they are needed",
            "use one folder a class, or arrays with a key y",
        ),
    ],
)
def test_labels_that_do_not_fit(labels: list[int] | None, shape: tuple[int, ...], what: str, hint: str) -> None:
    inputs = inputs_of(torch.zeros(4, 2), None if labels is None else torch.tensor(labels))
    error = refusal(DataError, check_labels, inputs, lambda _: None, shape=shape, purpose="they are needed")
    assert told(error) == (f"some data: {what}", hint)


def test_too_few_samples() -> None:
    require_samples(inputs_of(torch.zeros(4, 2)), 4)
    error = refusal(DataError, require_samples, inputs_of(torch.zeros(3, 2)), 4)
    assert told(error) == ("some data: has 3 samples, 4 are needed", "name more data")

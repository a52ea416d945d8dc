from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from ntt_cli.data import Reading
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import ModelError, NttError
from ntt_cli.kernels.checks import check_kernel, find_kernel
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.prepare import to_functional
from ntt_cli.runtime.events import Event, Warned
from tests.networks.test_operations import Around, both_ways
from tests.parts import CPU, apart, inputs_of, loaded, refusal


def told(error: NttError) -> tuple[str, str]:
    return str(error), error.hint


@pytest.mark.parametrize("name", ["plain", "convolutional", "tied", "partly frozen", "zeros", "unused"])
def test_kernels_that_can_be_taken(digits: Inputs, name: str) -> None:
    for trainable in (False, True):
        check_kernel(apart(name), digits, outputs=10, trainable=trainable, where="net.py")


def test_the_kernel_of_a_linear_network_depends_on_no_weight(digits: Inputs) -> None:
    network = to_functional(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), CPU, lambda _: None)
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
    network = to_functional(Lengths(), CPU, lambda _: None)
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

    network = to_functional(Root(), CPU, lambda _: None)
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
    assert error.hint == (
        "write that operation in simpler ones (torch.linalg.solve, torch.linalg.det and orthogonal parametrizations are"
        " known for it), or match the logits alone with --kernel-weight 0"
    )


class Wrong(nn.Module):
    """A network with a wrong second derivative, its outputs scaled, beside a parameter without use."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.idle = loaded("wrong derivative").module, nn.Linear(2, 2)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scale * self.inner(x)
        return out


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_wrong_derivative_is_found_at_any_scale(digits: Inputs, scale: float) -> None:
    error = refusal(
        ModelError, check_kernel, functional_model(Wrong(scale)), digits, outputs=10, trainable=True, where="net.py"
    )
    assert "second derivative is wrong" in str(error)


@pytest.mark.usefixtures("folder")
def test_twenty_pairs_are_tried_again_from_the_first_where_samples_are_few() -> None:
    asked: list[list[int]] = []

    class Watched(Inputs):
        def batch(self, indices: Tensor, reading: Reading = ()) -> Tensor:
            asked.append(indices.tolist())
            return super().batch(indices, reading)

    few = inputs_of(torch.rand(5, 64, generator=torch.Generator().manual_seed(0)))
    watched = Watched(few.samples, few.mean_std, few.device)
    refusal(ModelError, check_kernel, functional_model(Wrong()), watched, outputs=10, trainable=True, where="net.py")
    assert [len(pair) for pair in asked] == [2] * 20
    assert sum(asked, []) == [0, 1, 2, 3, 4] * 8


def test_a_kernel_whose_gradient_is_zero_can_be_matched(digits: Inputs) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    nn.init.constant_(network.get_parameter("1.bias"), -1e3)  # no unit is ever on
    check_kernel(functional_model(network), digits, outputs=10, trainable=True, where="net.py")


def test_checking_draws_nothing(digits: Inputs) -> None:
    network, random = apart("plain"), torch.get_rng_state()
    check_kernel(network, digits, outputs=10, trainable=True, where="net.py")
    assert torch.equal(torch.get_rng_state(), random)


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


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ("has no formula for X.", "has no formula for X", "write that operation in terms of torch's own"),
        ("has no formula.\nAnd more", "has no formula", "write that operation in terms of torch's own"),
        (
            "Checkpointing is odd",
            "Checkpointing is odd",
            "switch torch.utils.checkpoint off in build_model(): it saves memory by computing twice, and nothing else",
        ),
    ],
)
def test_an_error_of_torch_in_one_line(digits: Inputs, said: str, what: str, hint: str) -> None:
    def raises(_: object) -> Tensor:
        raise RuntimeError(said)

    network = replace(apart("plain"), select_outputs=raises)
    error = refusal(ModelError, check_kernel, network, digits, outputs=10, trainable=False, where="a.py")
    assert told(error) == (
        f"a.py: has an operation without the derivatives that its kernel needs: {what}",
        f"{hint}; --debug shows where it is",
    )


def test_a_kernel_that_is_only_measured_needs_no_second_derivative(digits: Inputs) -> None:
    network = to_functional(Lengths(), CPU, lambda _: None)
    assert find_kernel(network, digits, lambda _: None, outputs=10, matched=False, where="a.py")
    refusal(ModelError, find_kernel, network, digits, lambda _: None, outputs=10, matched=True, where="a.py")

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError, ModelError, NttError
from ntt_cli.networks import checks as checks_module
from ntt_cli.networks.checks import RANDOM_PASSES, WRAP, check_forward, check_training, require_one, require_samples
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.outputs import Heads, NoSuchOutput, usual_logits
from ntt_cli.runtime.events import Event, Noted, Warned
from tests.parts import apart, inputs_of, loaded, refusal

OTHER_DATA = "name other data with --data, change the images with --image-size or --grayscale, or the model"
OTHER_BATCH = "try another --batch-size or other data with --data, or mend the model"
PICK = "name outputs or layers with --outputs, or define logits(outputs) in model.py to pick one"
RANDOM = Warned(
    "net.py: two passes over the same samples differ in evaluation mode (noise, or F.dropout without"
    " training=self.training?), so that no figure of it is exact"
)
DEPENDENT = Warned(
    "net.py: what it says of a sample depends on the others in its batch (a mean over the batch?), so that figures"
    " change with --batch-size and --micro-batch"
)
PROBABILITIES = Warned(
    "net.py: its outputs look like probabilities, not negative and with sum 1, where logits are meant; leave out the"
    " Softmax at its end, or pick what stands before it by logits(outputs) in model.py"
)


def told(error: NttError) -> tuple[str, str]:
    return str(error), error.hint


class Computed(nn.Module):
    """A network whose outputs are a function of its inputs alone."""

    def __init__(self, function: Callable[[Tensor], Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def warnings_of(function: Callable[[Tensor], Tensor], samples: int = 2) -> list[Event]:
    events: list[Event] = []
    check_forward(
        functional_model(Computed(function)), inputs_of(torch.zeros(samples, 3)), events.append, where="net.py"
    )
    return events


@pytest.mark.parametrize(("draws", "again"), [(False, 1), (True, RANDOM_PASSES)])
def test_a_network_that_draws_random_numbers_is_run_more_often(
    draws: bool, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beartype, which checks shapes in these tests, draws from Python's generator.
    monkeypatch.setattr(checks_module, "global_state", lambda: torch.get_rng_state().tolist())
    sizes: list[int] = []

    def draw(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x + 0 * torch.rand(()) if draws else x

    assert warnings_of(draw) == []
    assert sizes == [2] * (1 + again) + [1]


@pytest.mark.parametrize(
    ("first", "second", "warnings"),
    [
        (0.0, 9e-5, []),
        (0.0, 1.1e-4, [RANDOM]),
        (1e4, 1e4 + 0.9, []),
        (1e4, 1e4 + 1.1, [RANDOM]),
    ],
)
def test_two_passes_may_differ_by_rounding(first: float, second: float, warnings: list[Event]) -> None:
    sizes: list[int] = []

    def changed(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.full_like(x, first if sizes == [2] or len(x) == 1 else second)

    assert warnings_of(changed) == warnings


def test_a_network_may_fail_in_its_second_pass() -> None:
    calls: list[int] = []

    def once(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("once")
        return x

    error = refusal(
        ModelError, check_forward, functional_model(Computed(once)), inputs_of(torch.zeros(2, 3)), print, where="net.py"
    )
    what = "cannot take inputs of shape [2, 3] and type float32 from some data: ValueError: once"
    assert told(error) == (f"net.py: {what}", OTHER_DATA)


def test_all_types_of_weights_are_named() -> None:
    def fails(_: Tensor) -> Tensor:
        raise ValueError("types")

    weights = (torch.zeros(1, dtype=dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16))
    network = functional_model(Computed(fails, *weights))
    error = refusal(ModelError, check_forward, network, inputs_of(torch.zeros(2, 3)), print, where="net.py")
    assert error.hint == (
        "inputs are float32, and some weights bfloat16 and float64: return network.float() from its factory"
    )


BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("together", "alone", "dtype", "warnings"),
    [
        ([[100.0, -3.0], [5.0, 5.0]], [[100.0, -3.09]], FLOAT32, []),  # 1e-3 of the largest logit is 0.1
        ([[100.0, -3.0], [5.0, 5.0]], [[100.0, -3.11]], FLOAT32, [DEPENDENT]),
        ([[5.0, 5.0], [2.0, -100.0]], [[5.0, 5.09]], FLOAT32, []),
        ([[1.0, 0.0], [0.5, -1.0]], [[1.0, 0.125]], BFLOAT16, []),  # 16 times its precision, 2**-7
        ([[1.0, 0.0], [0.5, -1.0]], [[1.0, 0.13]], BFLOAT16, [DEPENDENT]),
        ([[1.0, -1.0], [0.0, 3.0]], [[[1.0, -9.0]]], FLOAT32, []),  # of another shape
    ],
)
def test_a_sample_alone_may_differ_by_rounding(
    together: Sequence[object], alone: Sequence[object], dtype: torch.dtype, warnings: list[Event]
) -> None:
    assert warnings_of(lambda x: torch.tensor(together if len(x) == 2 else alone, dtype=dtype)) == warnings


def test_a_single_sample_depends_on_no_others() -> None:
    assert warnings_of(lambda x: x, samples=1) == []


def test_a_network_may_refuse_a_single_sample() -> None:
    def of_two(x: Tensor) -> Tensor:
        if len(x) < 2:
            raise ValueError("too few")
        return x

    assert warnings_of(of_two) == []


@pytest.mark.parametrize(
    ("outputs", "warnings"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], [PROBABILITIES]),
        ([[0.25, 0.75]], [PROBABILITIES]),  # one sample
        ([[[0.5, 0.5], [0.25, 0.75]], [[0.0, 1.0], [0.125, 0.875]]], [PROBABILITIES]),  # two positions
        ([[[0.5, 0.5]], [[0.0, 1.0]]], [PROBABILITIES]),  # one position
        ([[0.25, 0.75], [0.5, 0.75]], []),
        ([[0.25, 0.75], [0.5, 0.25]], []),
        ([[0.25, 0.75], [2.0, -1.0]], []),
        ([[1.0], [1.0]], []),  # one output
        ([[[1.0], [1.0]], [[1.0], [1.0]]], []),
        ([[0.25, 0.75], [0.75, 1.25]], []),  # columns of sum 1 and 2
    ],
)
def test_outputs_that_look_like_probabilities(outputs: Sequence[object], warnings: list[Event]) -> None:
    logits = torch.tensor(outputs)
    assert warnings_of(lambda x: logits[: len(x)], samples=len(logits)) == warnings


def test_parameters_made_in_the_first_pass_are_named() -> None:
    class Made(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for name in "edcba":
                setattr(self, name, nn.Parameter(torch.zeros(1)))
            return x

    error = refusal(
        ModelError, check_forward, functional_model(Made()), inputs_of(torch.zeros(2, 3)), print, where="net.py"
    )
    assert told(error) == (
        "net.py: makes parameters in its first forward pass: e, d, c, b",
        "pass one batch through the network before build_model() returns it",
    )


def test_number_of_outputs(digits: Inputs) -> None:
    assert check_forward(apart("plain"), digits, print, where="net.py").shapes == {"output": (10,)}


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("nan output", "returns NaN or infinity", "check the weights and the scale of the inputs"),
        (
            "leaves",
            "cannot take inputs of shape [2, 1, 8, 8] and type float32 from digits: SystemExit: 0",
            OTHER_DATA,
        ),
    ],
)
def test_outputs_that_are_no_logits(digits: Inputs, name: str, what: str, hint: str) -> None:
    error = refusal(ModelError, check_forward, apart(name), digits, print, where="net.py")
    assert told(error) == (f"net.py: {what}", hint)


@pytest.mark.parametrize("logits", [torch.zeros(3, 10), torch.zeros(2, 10, dtype=torch.int64)])
def test_a_row_of_real_numbers_for_each_sample(digits: Inputs, logits: Tensor) -> None:
    network = replace(apart("plain"), select_outputs=lambda _: logits)
    error = refusal(ModelError, check_forward, network, digits, print, where="net.py")
    kind = "int64" if logits.dtype == torch.int64 else "float32"
    assert str(error) == f"net.py: returns {kind} of shape {list(logits.shape)}: no floating tensor of 2 rows"


def test_what_picks_the_logits_may_fail(digits: Inputs) -> None:
    def missing(_: object) -> Tensor:
        raise NoSuchOutput("has no output scores")

    def broken(_: object) -> Tensor:
        raise KeyError("scores")

    def leaves(_: object) -> Tensor:
        raise SystemExit(3)

    network = apart("plain")
    error = refusal(ModelError, check_forward, replace(network, select_outputs=missing), digits, print, where="net.py")
    assert told(error) == ("net.py: has no output scores", PICK)
    for select_outputs, what in ((broken, "KeyError: 'scores'"), (leaves, "SystemExit: 3")):
        error = refusal(
            ModelError, check_forward, replace(network, select_outputs=select_outputs), digits, print, where="net.py"
        )
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
    assert str(error).startswith(f"net.py: {what}: RuntimeError: ")
    assert "mat1 and mat2 " in str(error)  # in the words of torch, which change
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
    assert (
        error.hint
        == "write out of place; in a network of transformers that keeps a state, set config.use_cache = False"
    )


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
        (
            "tuple in training",
            "net.py in training mode",
            "returns a tuple of 0, 1, and in its first pass one tensor",
            "name outputs or layers with --outputs",
        ),
        (
            "small batches fail",
            "net.py in training mode",
            "cannot take inputs of shape [1, 1, 8, 8] and type float32 from digits: ValueError: Expected more than 1",
            OTHER_BATCH,
        ),
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
    heads = Heads(usual_logits, {"output": (10,)})
    error = refusal(ModelError, check_training, loaded(name).module, heads, digits, batch_size=1, where="net.py")
    assert error.where == where
    assert f": {what}" in str(error)
    assert error.hint.startswith(hint)


def test_outputs_without_tensors(digits: Inputs) -> None:
    network = replace(apart("plain"), select_outputs=lambda _: 3)
    error = refusal(ModelError, check_forward, network, digits, print, where="net.py")
    assert told(error) == ("net.py: returns an int: no floating tensor of 2 rows", WRAP)


def test_detections_are_no_outputs(digits: Inputs) -> None:
    found = [{"boxes": torch.zeros(3, 4), "scores": torch.zeros(3)}, {"boxes": torch.zeros(2, 4)}]
    network = replace(apart("plain"), select_outputs=lambda _: found)
    error = refusal(ModelError, check_forward, network, digits, print, where="net.py")
    assert told(error) == ("net.py: returns a list of dicts (boxes, scores): no floating tensor of 2 rows", WRAP)


class States(nn.Module):
    """Returns rows, one number a sample, and the states of two layers, whose first axis is the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(8, 4, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rows, states = self.inner(x.flatten(1, 2))
        return {"rows": rows, "mean": rows.mean((1, 2)), "states": states}


def test_states_of_two_layers_are_not_two_samples(digits: Inputs) -> None:
    heard: list[Event] = []
    heads = check_forward(functional_model(States()), digits, heard.append, where="net.py")
    assert heads.shapes == {"rows": (8, 4), "mean": ()}
    assert heard == [Noted("outputs: rows [8, 4], mean []")]


class Contrastive(nn.Module):
    """Returns embeddings, and their similarities to all of the batch, whose columns are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embeds = self.inner(x.flatten(1))
        return {"similarities": embeds @ embeds.T, "embeds": embeds}


def test_a_matrix_over_the_batch_is_no_head(digits: Inputs) -> None:
    heads = check_forward(functional_model(Contrastive()), digits, lambda _: None, where="net.py")
    assert heads.shapes == {"embeds": (3,)}


def test_labels_are_for_one_output() -> None:
    assert require_one(Heads(usual_logits, {"a": (3,)}), where="net.py") == (3,)
    error = refusal(ModelError, require_one, Heads(usual_logits, {"a": (3,), "b": ()}), where="net.py")
    told_one = "net.py: has several outputs, a [3], b [], and the labels are for one"
    assert told(error) == (told_one, "choose it with --outputs, like --outputs a")


def test_too_few_samples() -> None:
    require_samples(inputs_of(torch.zeros(4, 2)), 4)
    error = refusal(DataError, require_samples, inputs_of(torch.zeros(3, 2)), 4)
    assert told(error) == ("some data: has 3 samples, 4 are needed", "name more data")

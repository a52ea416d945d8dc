"""Networks that their authors built in ways of their own: each works, or is named with what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("folder")

HEAD = """import threading

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

DATA = "digits"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 24)
        self.b = nn.Linear(24, 10)
        self.extend()

    def extend(self):
        pass

    def forward(self, x):
        return self.b(torch.relu(self.a(x.flatten(1))))

"""
PRUNE = ("--sparsity", "0.8", "--steps", "3", "--batch-size", "8", "--limit", "64", "--force")


def write(body: str, name: str = "net.py") -> str:
    """A model file whose network has these methods."""
    lines = "\n".join(f"    {line}" if line else "" for line in body.strip().splitlines())
    Path(name).write_text(f"{HEAD}class Own(Net):\n{lines}\n\ndef build_model():\n    return Own()\n")
    return name


@pytest.mark.usefixtures("few_rounds")
def test_a_forward_pass_that_writes_into_its_input(ntt: Ntt) -> None:
    write("def forward(self, x):\n    x.mul_(2.0)\n    return super().forward(x)")
    assert ntt("finetune", "net.py", "--epochs", 1, "--limit", 64).code == 0
    measured = ntt("evaluate", "net.py", "-c", "dense.safetensors", "--teacher", "dense.safetensors", "--json")
    agreement = measured.document["agreement"]
    assert (agreement["logit_distance"], agreement["top1_agreement"]) == (0.0, 1.0)
    for method in ("ntt", "ntk-sap", "synflow", "wanda", "snip"):
        options = PRUNE if method == "ntt" else ("-s", 0.8, "--force")
        assert ntt("prune", "net.py", "--method", method, *options).code == 0


def test_a_network_that_is_random_in_evaluation_mode(ntt: Ntt) -> None:
    write("def forward(self, x):\n    return F.dropout(super().forward(x), 0.5)")
    warning = "warning: net.py: two passes over the same samples differ in evaluation mode"
    assert warning in ntt("finetune", "net.py", "--epochs", 1, "--limit", 64).err
    found = [ntt("evaluate", "net.py", "-c", "dense.safetensors", "--json") for _ in range(2)]
    assert all(warning in result.err for result in found)
    assert found[0].document["accuracy"] == found[1].document["accuracy"]
    assert warning in ntt("prune", "net.py", *PRUNE).err


def test_a_network_whose_samples_depend_on_each_other(ntt: Ntt) -> None:
    write("def forward(self, x):\n    return super().forward(x - x.mean(0, keepdim=True))")
    result = ntt("prune", "net.py", *PRUNE)
    assert "warning: net.py: what it says of a sample depends on the others in its batch" in result.err


def test_random_data_are_not_blamed_on_the_network(ntt: Ntt) -> None:
    write("pass")
    Path("data.py").write_text(
        "import torch\n"
        "class Own(torch.utils.data.Dataset):\n"
        "    random = torch.Generator().manual_seed(0)\n"
        "    def __len__(self):\n        return 32\n"
        "    def __getitem__(self, i):\n        return torch.randn(1, 8, 8, generator=self.random)\n"
        "class Counting(Own):\n"
        "    read = 0\n"
        "    def __getitem__(self, i):\n"
        "        self.read += 1\n        return torch.full((1, 8, 8), self.read // 70 + i / 32)\n"
    )
    for name in ("Own", "Counting"):
        result = ntt("prune", "net.py", *PRUNE, "-d", f"data.py:{name}")
        assert "its items differ in each reading" in result.err
        assert "differ in evaluation mode" not in result.err


def test_layers_that_are_left_out_now_and_then_are_found_out(ntt: Ntt) -> None:
    write("def forward(self, x):\n    return super().forward(x) * (torch.rand(()) < 0.8)")
    assert "differ in evaluation mode" in ntt("prune", "net.py", *PRUNE).err


def test_a_network_that_draws_without_effect_is_not_random(ntt: Ntt) -> None:
    write("def forward(self, x):\n    return super().forward(x) + self.training * torch.randn(10)")
    assert "differ in evaluation mode" not in ntt("prune", "net.py", *PRUNE).err


@pytest.mark.parametrize(
    "value", ["threading.Lock()", "np", "open('/dev/null')", "(i for i in range(3))", "[threading.Lock()]"]
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_attributes_that_cannot_be_copied_are_shared(ntt: Ntt, value: str) -> None:
    write(f"def extend(self):\n    self.kept = {value}")
    assert ntt("prune", "net.py", *PRUNE).code == 0
    assert ntt("finetune", "net.py", "-c", "sparse.safetensors", "--epochs", 1, "--limit", 64, "--force").code == 0


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_activation_checkpointing_is_named(ntt: Ntt, reentrant: bool) -> None:
    write(f"def forward(self, x):\n    return checkpoint(super().forward, x, use_reentrant={reentrant})")
    result = ntt("prune", "net.py", *PRUNE)
    assert (result.code, "switch torch.utils.checkpoint off" in result.err) == (2, True)


def test_weights_under_no_grad_are_named(ntt: Ntt) -> None:
    write(
        "@torch.no_grad()\ndef half(self, x):\n    return self.a(x)\n"
        "def forward(self, x):\n    return self.b(self.half(x.flatten(1)))"
    )
    result = ntt("prune", "net.py", *PRUNE)
    assert (result.code, "uses a.weight where no gradient is kept" in result.err) == (2, True)
    assert "--exclude 'a.weight'" in result.err


SPARSE = """def extend(self):
    self.e = nn.Embedding(50, 24, sparse=True)

def forward(self, x):
    return self.b(self.e((x.flatten(1) * 3).long().clamp(0, 49)).mean(1)) + 0 * super().forward(x)
"""


def test_embeddings_with_sparse_gradients(ntt: Ntt) -> None:
    write(SPARSE)
    assert ntt("prune", "net.py", *PRUNE, "--kernel-weight", 0).code == 0
    assert ntt("finetune", "net.py", "--epochs", 1, "--limit", 64).code == 0


def test_complex_weights_are_named(ntt: Ntt) -> None:
    write("def extend(self):\n    self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))")
    for command in (("prune", "net.py", *PRUNE), ("finetune", "net.py", "--epochs", 1)):
        result = ntt(*command)
        assert (result.code, "error: w: is a complex parameter" in result.err) == (2, True)
        assert "view_as_real" in result.err


def test_a_state_dict_that_holds_more_than_tensors_is_refused_before_the_first_step(ntt: Ntt) -> None:
    write(STATE.format("state['version'] = 3"))
    for command in (("prune", "net.py", *PRUNE), ("finetune", "net.py", "--epochs", 1)):
        result = ntt(*command)
        assert result.code == 2
        assert "its state dict holds version, of type int, not a tensor" in result.err
        assert not list(Path().glob("*.safetensors"))


def test_extra_state_that_is_a_tensor_is_written_and_loaded_again(ntt: Ntt) -> None:
    write("def get_extra_state(self):\n    return torch.tensor([3])\ndef set_extra_state(self, state):\n    pass")
    assert ntt("prune", "net.py", *PRUNE).code == 0
    assert load_file("sparse.safetensors")["_extra_state"].tolist() == [3]
    assert ntt("finetune", "net.py", "-c", "sparse.safetensors", "--epochs", 1, "--limit", 64).code == 0
    assert ntt("evaluate", "net.py", "-c", "tuned.safetensors").code == 0


STATE = (
    "def state_dict(self, *args, **options):\n"
    "    state = super().state_dict(*args, **options)\n    {}\n    return state\n"
)
LOAD = (
    "def load_state_dict(self, state, strict=True, **options):\n"
    "    return super().load_state_dict({}, strict=strict, **options)\n"
)
OTHER_VALUES = "its state dict holds a.weight in another type or with other values than the parameter has"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (STATE.format("state = {name: value.half() for name, value in state.items()}"), OTHER_VALUES),
        (
            STATE.format("state['a.weight'] = state['a.weight'] / 2")
            + LOAD.format("{**state, 'a.weight': 2 * state['a.weight']}"),
            OTHER_VALUES,
        ),
        (LOAD.format("{**state, 'a.weight': 2 * state['a.weight']}"), "has another a.weight once it has loaded"),
        (
            "def extend(self):\n    self.register_buffer('scale', torch.ones(3))\n"
            + STATE.format("state['scale'] = state['scale'] + 1"),
            "has another scale once it has loaded its own state dict",
        ),
        (
            "def extend(self):\n"
            "    self.register_load_state_dict_post_hook(lambda m, _: [m.a.weight.data.zero_()].clear())",
            "has another a.weight once it has loaded its own state dict",
        ),
    ],
    ids=["half", "scaled", "loader", "buffer", "hook"],
)
def test_a_state_dict_that_does_not_give_back_the_network_is_refused(ntt: Ntt, body: str, what: str) -> None:
    write(body)
    for command in (("prune", "net.py", *PRUNE), ("finetune", "net.py", "--epochs", 1)):
        result = ntt(*command)
        assert (result.code, what in result.err) == (2, True), result.err


def test_a_state_dict_of_copies_and_a_buffer_kept_in_another_form(ntt: Ntt) -> None:
    write(
        "def extend(self):\n    self.register_buffer('scale', torch.tensor([1.0, float('nan')]))\n"
        + STATE.format("state = {n: v.clone() for n, v in state.items()}; state['scale'] = state['scale'] * 2")
        + LOAD.format("{**state, 'scale': state['scale'] / 2}")
    )
    assert ntt("prune", "net.py", *PRUNE).code == 0
    assert ntt("finetune", "net.py", "-c", "sparse.safetensors", "--epochs", 1, "--limit", 64).code == 0
    assert ntt("evaluate", "net.py", "-c", "tuned.safetensors").code == 0


@pytest.mark.parametrize("later", ["{'n': 3}", "torch.ones(3)"])
def test_what_a_state_dict_holds_only_later_is_not_written(ntt: Ntt, later: str) -> None:
    write(
        "def forward(self, x):\n    self.late = True\n    return super().forward(x)\n"
        + STATE.format(f"state |= {{'count': {later}}} if hasattr(self, 'late') else {{}}")
    )
    assert ntt("prune", "net.py", *PRUNE).code == 0
    assert ntt("finetune", "net.py", "-c", "sparse.safetensors", "--epochs", 1, "--limit", 64).code == 0
    for name in ("sparse", "tuned"):
        assert sorted(load_file(f"{name}.safetensors")) == ["a.bias", "a.weight", "b.bias", "b.weight"]


def test_a_hook_that_renames_a_parameter_is_refused(ntt: Ntt) -> None:
    hook = "self.register_state_dict_post_hook(lambda m, s, p, l: s.update({'first': s.pop('a.weight')}))"
    write(f"def extend(self):\n    {hook}")
    result = ntt("prune", "net.py", *PRUNE)
    assert (result.code, "does not hold the parameter a.weight under that name" in result.err) == (2, True)


def test_a_parameter_that_no_file_can_name_is_refused(ntt: Ntt) -> None:
    write("def extend(self):\n    self.register_parameter('__metadata__', nn.Parameter(torch.ones(2, 2)))")
    result = ntt("prune", "net.py", *PRUNE)
    assert (result.code, "its state dict holds __metadata__, which no safetensors file does" in result.err) == (2, True)


def test_parameters_made_in_the_first_forward_pass_are_named(ntt: Ntt) -> None:
    write(
        "def forward(self, x):\n    if not hasattr(self, 'w'):\n        self.w = nn.Parameter(torch.eye(10))\n"
        "    return super().forward(x) @ self.w"
    )
    for command in (("prune", "net.py", *PRUNE), ("finetune", "net.py", "--epochs", 1)):
        result = ntt(*command)
        assert (result.code, "makes parameters in its first forward pass: w" in result.err) == (2, True)


def test_a_failure_in_a_late_step_is_the_model_s(ntt: Ntt) -> None:
    write(
        "def extend(self):\n    self.calls = [0]\n\ndef forward(self, x):\n    self.calls[0] += self.training\n"
        "    assert self.calls[0] < 9, 'enough'\n    return super().forward(x)"
    )
    result = ntt("finetune", "net.py", "--epochs", 1)
    assert result.code == 2
    assert re.search(r"error: \S*net.py: raised AssertionError: enough \(line \d+\)", result.err)


@pytest.mark.parametrize(
    ("failing", "what"),
    [
        ("raise SystemExit(0)", "called sys.exit(0)"),
        ("raise SystemExit('bye')", "called sys.exit('bye')"),
        ("raise GeneratorExit", "raised GeneratorExit"),
        ("raise StopIteration('done')", "raised StopIteration: done"),
        ("raise BrokenPipeError(32, 'Broken pipe')", "raised BrokenPipeError: [Errno 32] Broken pipe"),
        ("raise type('Bad', (Exception,), {'__str__': lambda self: 1 / 0})", "raised Bad"),
        ("raise ValueError('x' * 1_000_000)", f"raised ValueError: {'x' * 500}…{'x' * 500}"),
    ],
)
def test_whatever_a_late_step_raises_is_the_model_s(ntt: Ntt, failing: str, what: str) -> None:
    pruning = ("prune", *PRUNE, "--steps", 90, "--kernel-weight", 0)
    for command, counted, last in ((pruning, "True", 80), (("finetune",), "self.training", 9)):
        write(
            f"calls = 0\n\ndef forward(self, x):\n    self.calls += {counted}\n"
            f"    if self.calls == {last}:\n        {failing}\n    return super().forward(x)"
        )
        result = ntt(*command, "net.py")
        assert result.code == 2
        assert re.search(rf"error: \S*net.py: {re.escape(what)} \(line \d+\)\nhint: ", result.err)


def test_probabilities_for_logits_are_warned_of(ntt: Ntt) -> None:
    write("def forward(self, x):\n    return super().forward(x).softmax(1)")
    for command in (("prune", "net.py", *PRUNE), ("finetune", "net.py", "--epochs", 1, "--limit", 64)):
        result = ntt(*command)
        assert (result.code, "its outputs look like probabilities" in result.err) == (0, True)
    write("def forward(self, x):\n    return super().forward(x).log_softmax(1)")
    assert "probabilities" not in ntt("prune", "net.py", *PRUNE).err


@pytest.mark.parametrize("kind", ["expanded", "inference"])
def test_weights_that_cannot_be_trained_in_place(ntt: Ntt, kind: str) -> None:
    made = "torch.zeros(1, 64).expand(24, 64)"
    lines = {
        "expanded": f"self.a.weight = nn.Parameter({made})",
        "inference": "with torch.inference_mode():\n        self.a = nn.Linear(64, 24)",
    }
    write(f"def extend(self):\n    {lines[kind]}")
    assert ntt("finetune", "net.py", "--epochs", 1, "--limit", 64).code == 0
    assert ntt("prune", "net.py", *PRUNE).code == 0


def test_a_half_precision_network_keeps_its_type(ntt: Ntt) -> None:
    write("def extend(self):\n    self.half()")
    result = ntt("prune", "net.py", *PRUNE)
    assert (result.code, "computed with in float32, and written as float16" in result.err) == (0, True)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_inputs_is_no_weight_to_prune(ntt: Ntt) -> None:
    write("def extend(self):\n    self.none = nn.Linear(0, 10)")
    result = ntt("prune", "net.py", *PRUNE)
    assert (result.code, "none.weight" in result.out) == (0, False)

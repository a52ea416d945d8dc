"""Weights as users have them: published in many forms, sparse without a record, brought along by a factory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.config import EvaluateConfig, FinetuneConfig, PruneConfig
from ntt_cli.errors import CheckpointError, ModelError, NttError, UsageError
from ntt_cli.evaluation import evaluate
from ntt_cli.pruning import prune
from ntt_cli.pruning.job import prepare
from ntt_cli.runtime.events import Event, Noted, Warned
from ntt_cli.training import finetune

pytestmark = pytest.mark.usefixtures("folder")

MODEL = """import torch
from torch import nn
DATA = "digits"

def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    return tmp_path


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10))
    net.train()(torch.randn(64, 64) * 5)
    return {name: value.clone() for name, value in net.state_dict().items()}


def sparse_state(share: float = 0.9) -> dict[str, Tensor]:
    """One layer pruned at random, the other not."""
    tensors = state()
    keep = torch.rand(24, 64, generator=torch.Generator().manual_seed(1)) >= share
    return tensors | {"1.weight": tensors["1.weight"] * keep}


class Events(list[Event]):
    def of(self, kind: type[Warned] | type[Noted]) -> list[str]:
        return [event.message for event in self if isinstance(event, kind)]


def evaluated(path: str, **options: object) -> tuple[evaluate.EvaluateReport, Events]:
    events = Events()
    config = EvaluateConfig(model="model.py", checkpoint=path, limit=50, device="cpu", **options)  # type: ignore[arg-type]
    return evaluate.run(config, events.append), events


def shards(tensors: dict[str, Tensor]) -> str:
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for shard in set(names.values()):
        save_file({name: value for name, value in tensors.items() if names[name] == shard}, shard)
    Path("model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return "model.safetensors.index.json"


def one(tensors: dict[str, Tensor]) -> str:
    save_file(tensors, "x.safetensors")
    return "x.safetensors"


def pickled(content: object) -> str:
    torch.save(content, "x.pt")
    return "x.pt"


def hub(tensors: dict[str, Tensor]) -> str:
    Path("hub").mkdir(exist_ok=True)
    torch.save(tensors, "hub/pytorch_model.bin")
    return "hub"


FORMS: dict[str, tuple[Callable[[], str], str]] = {
    "plain": (lambda: one(state()), "x.safetensors: 9 tensors"),
    "prefix": (
        lambda: one({f"module.{name}": value for name, value in state().items()}),
        "x.safetensors: 9 tensors, prefix module. dropped",
    ),
    "no counters": (
        lambda: one({name: value for name, value in state().items() if "num_batches" not in name}),
        "x.safetensors: 8 tensors, 1 counter num_batches_tracked missing and set to 0",
    ),
    "extra": (
        lambda: one(state() | {"extra": torch.ones(3)}),
        "x.safetensors: 10 tensors, left out extra, which no layer has",
    ),
    "pickle": (lambda: pickled(state()), "x.pt: 9 tensors"),
    "checkpoint": (
        lambda: pickled({"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state().items()}}),
        "x.pt: 9 tensors, prefix state_dict.model. dropped",
    ),
    "hub": (lambda: hub(state()), "hub: 9 tensors"),
    "shards": (lambda: shards(state()), "model.safetensors.index.json: 9 tensors in 2 shards"),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_commands_read_published_weights_and_say_how(form: str) -> None:
    write, line = FORMS[form]
    expected, _ = evaluated(one(state()))
    path = write()
    report, events = evaluated(path, teacher=path)
    weights, data, inputs, teacher = events.of(Noted)
    assert (weights, teacher) == (f"weights: {line}", f"teacher: {line}")
    assert data.startswith("data: digits, ")
    assert inputs.startswith("inputs: as they are")
    assert report.accuracy == expected.accuracy
    assert report.agreement is not None
    assert (report.agreement.top1_agreement, report.agreement.logit_distance) == (1.0, 0.0)
    task = prepare(PruneConfig(model="model.py", sparsity=0.5, weights=path, limit=20, device="cpu"), Events().append)
    assert (task.weights.origin, task.settings.affinity, task.settings.steps) == ("foreign", False, 6000)
    for name, value in task.teacher.buffers.items():  # trained statistics, not those of the 20 samples
        if "running" in name:
            assert torch.equal(value, state()[name])
    tuned = Events()
    config = FinetuneConfig(model="model.py", checkpoint=path, epochs=1, limit=100, device="cpu")
    finetune.run(config, tuned.append)
    assert f"weights: {line}" in tuned.of(Noted)


def test_a_part_of_a_file_alone() -> None:
    expected, _ = evaluated(one(state()))
    both = {"model": state(), "ema": {name: value * 2 for name, value in state().items()}}
    path = pickled(both)
    with pytest.raises(CheckpointError, match=r"more than once, as model\. and ema\."):
        evaluated(path)
    report, events = evaluated(path, weights_prefix="model.")
    assert events.of(Noted)[0] == "weights: x.pt: 18 tensors, 9 of them under model."
    assert report.accuracy == expected.accuracy
    report, events = evaluated(one(state() | {"neck.weight": torch.ones(2, 2)}), ignore_extra=True)
    assert "left out neck.weight, which the model lacks" in events.of(Noted)[0]
    assert report.accuracy == expected.accuracy
    for options in ({"weights_prefix": "model."}, {"ignore_extra": True}):
        with pytest.raises(ValueError, match="no file of weights is named"):
            PruneConfig(model="model.py", sparsity=0.5, **options)  # type: ignore[arg-type]
    net = ntt.load(path, "model.py", weights_prefix="ema.").model
    assert torch.equal(net.state_dict()["4.weight"], both["ema"]["4.weight"])


def test_a_file_without_its_head() -> None:
    path = one({name: value for name, value in state().items() if not name.startswith("4.")})
    with pytest.raises(CheckpointError) as caught:
        evaluated(path)
    assert str(caught.value).splitlines() == [
        "x.safetensors: lacks the network's last layer, 4, as files do that were saved without a head:",
        "  missing 4.weight [10, 24]",
        "  missing 4.bias [10]",
    ]


def test_masks_of_biases_are_held_and_count_as_no_weights() -> None:
    keep = torch.rand(24, 64, generator=torch.Generator().manual_seed(1)) >= 0.9
    tensors = state()
    tensors |= {"1.weight_orig": tensors.pop("1.weight"), "1.weight_mask": keep.float()}
    tensors |= {"1.bias_orig": tensors.pop("1.bias"), "1.bias_mask": torch.zeros(24)}
    path, kept = one(tensors), int(keep.sum())
    tune(path)
    assert load_file("tuned.safetensors")["1.bias"].count_nonzero() == 0
    for file in (path, "tuned.safetensors"):
        report, _ = evaluated(file)
        assert (report.kept, report.prunable) == (kept, 24 * 64)
        assert (report.flops_dense, report.flops_sparse) == (2 * (24 * 64 + 240), 2 * (kept + 240))


def tune(path: str | None, **options: object) -> Events:
    events = Events()
    config = FinetuneConfig(model="model.py", checkpoint=path, epochs=1, limit=100, device="cpu", force=True, **options)  # type: ignore[arg-type]
    finetune.run(config, events.append)
    return events


def test_zeros_of_a_foreign_file_are_held_with_a_warning() -> None:
    tensors = sparse_state()
    share = float((tensors["1.weight"] == 0).float().mean())
    message = (
        "x.safetensors does not say which of its weights are pruned; its zeros stay zero:"
        f" 1.weight {share:.1%}; --keep-zeros says that this is meant, --dense that they are weights"
    )
    path = one(tensors)
    report, events = evaluated(path)
    assert events.of(Warned) == [message]
    kept = int(tensors["1.weight"].count_nonzero())
    assert (report.kept, report.prunable) == (kept, 24 * 64)
    assert (report.flops_dense, report.flops_sparse) == (2 * (24 * 64 + 240), 2 * (kept + 240))
    assert tune(path).of(Warned) == [message]
    assert torch.equal(load_file("tuned.safetensors")["1.weight"] == 0, tensors["1.weight"] == 0)
    assert evaluated("tuned.safetensors")[1].of(Warned) == []  # it says so itself now


def ternary(weight: Tensor) -> Tensor:
    return weight.sign() * (weight.abs() > 0.06)


def not_held(described: str) -> str:
    return (
        f"zeros of x.safetensors that do not stay zero but are weights like all others: {described}; they look like"
        " values of a grid (ternary or quantised weights) or like an initialisation; --keep-zeros keeps all zeros,"
        " --dense says that they are weights"
    )


def test_many_zeros_that_are_not_held_are_named() -> None:
    weight = ternary(state()["1.weight"])
    path = one(state() | {"1.weight": weight})
    share = float((weight == 0).double().mean())
    assert 0.4 < share < 0.6
    message = not_held(f"1.weight {share:.1%}")
    report, events = evaluated(path)
    assert (events.of(Warned), report.prunable) == ([message], 0)
    assert tune(path).of(Warned) == [message]
    report, events = evaluated(path, keep_zeros=True)
    assert (events.of(Warned), report.prunable) == ([], 24 * 64)
    assert report.kept == int(weight.count_nonzero())
    events = evaluated(path, dense=True)[1]
    assert events.of(Warned) == []
    assert f"zeros are weights like all others: 1.weight {share:.1%}" in events.of(Noted)


def test_a_layer_of_zeros_is_named_beside_pruned_ones_and_is_not_held() -> None:
    zeros = {"4.weight": torch.zeros(10, 24)}
    report, events = evaluated(one(sparse_state() | zeros))
    assert not_held("4.weight 100.0%") in events.of(Warned)
    assert report.prunable == 24 * 64
    assert evaluated(one(sparse_state() | zeros), keep_zeros=True)[0].prunable == 24 * 64 + 240
    report, events = evaluated(one(state() | zeros))  # a head that starts at zero
    assert not any("zeros" in line for line in events.of(Warned))
    assert report.prunable == 0


def test_zeros_beside_recorded_masks() -> None:
    keep = torch.rand(24, 64, generator=torch.Generator().manual_seed(1)) >= 0.9
    tensors = state()
    tensors |= {
        "1.weight_orig": tensors.pop("1.weight"),
        "1.weight_mask": keep,
        "4.weight": ternary(tensors["4.weight"]),
    }
    share = float((tensors["4.weight"] == 0).double().mean())
    report, events = evaluated(one(tensors))
    assert (events.of(Warned), report.prunable) == ([not_held(f"4.weight {share:.1%}")], 24 * 64)
    report, events = evaluated(one(tensors), keep_zeros=True)
    assert (events.of(Warned), report.prunable) == ([], 24 * 64 + 240)


def test_options_decide_what_zeros_are() -> None:
    path = one(sparse_state(0.005))  # too few to be noticed
    assert evaluated(path)[0].prunable == 0
    report, events = evaluated(path, keep_zeros=True)
    assert (report.prunable, events.of(Warned)) == (24 * 64, [])
    assert report.kept == int(sparse_state(0.005)["1.weight"].count_nonzero()) < report.prunable
    path = one(sparse_state())
    report, events = evaluated(path, dense=True)
    assert (report.prunable, report.flops_sparse) == (0, report.flops_dense)
    assert events.of(Warned) == []
    assert any(line.startswith("zeros are weights like all others: 1.weight") for line in events.of(Noted))
    tune(path, dense=True, mean="0.3", std="0.4")  # as they are, some pixels are always 0 and learn nothing
    assert load_file("tuned.safetensors")["1.weight"].count_nonzero() > 0.9 * 24 * 64


def test_a_hubs_folder_stands_for_its_one_file() -> None:
    Path("hub").mkdir()
    save_file(state(), "hub/model.safetensors")
    report, events = evaluated("hub")
    assert events.of(Noted)[0] == "weights: hub: 9 tensors"
    assert report.file_bytes == Path("hub/model.safetensors").stat().st_size


def test_an_empty_name_is_not_this_folder() -> None:
    one(state())
    with pytest.raises(CheckpointError, match="is no name of a file"):
        evaluated("")


def refusal(kind: type[NttError], work: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.exit_code == 2
    return str(caught.value), caught.value.hint


def test_an_option_about_zeros_that_decides_nothing() -> None:
    dense, sparse = one(state()), "y.safetensors"
    for option in ({"dense": True}, {"keep_zeros": True}):
        what, hint = refusal(UsageError, lambda option=option: evaluated(dense, **option))  # type: ignore[misc]
        assert "does nothing: no " in what
        assert hint == "leave it out"
        with pytest.raises(ValueError, match="it is about a checkpoint's zeros"):
            FinetuneConfig(model="model.py", **option)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give either keep_zeros or dense"):
        EvaluateConfig(model="model.py", checkpoint=dense, dense=True, keep_zeros=True)
    options = {"sparsity": 0.5, "method": "magnitude", "weights": dense, "limit": 20, "device": "cpu"}
    prune.run(PruneConfig(model="model.py", output=sparse, **options), Events().append)  # type: ignore[arg-type]
    what, _ = refusal(UsageError, lambda: evaluated(sparse, keep_zeros=True))
    assert what == "--keep-zeros: does nothing: y.safetensors says itself which zeros to keep"
    assert evaluated(sparse, dense=True)[0].prunable == 0


def test_a_sparse_teacher_is_named() -> None:
    path = one(sparse_state())
    share = float((sparse_state()["1.weight"] == 0).float().mean())
    what = f"the teacher is sparse already, {share:.1%} of 1,536 weights: 1.weight {share:.1%}"
    assert what in evaluated(path, teacher=path)[1].of(Warned)
    for sparsity, more in ((0.95, ""), (0.5, ", and --sparsity 0.5 asks for less")):
        events = Events()
        prepare(PruneConfig(model="model.py", sparsity=sparsity, weights=path, limit=20, device="cpu"), events.append)
        assert events.of(Warned) == [f"{what}; the student starts from its zeros and may use them again{more}"]


def prepared(**options: object) -> tuple[prune.Task, list[str]]:
    events = Events()
    config = PruneConfig(model="model.py", sparsity=0.5, limit=20, device="cpu", **options)  # type: ignore[arg-type]
    return prepare(config, events.append), events.of(Warned)


def test_a_factory_that_brings_trained_weights() -> None:
    save_file(state(), "own.safetensors")
    own = MODEL.replace("    return ", "    net = ") + (
        "    import safetensors.torch, pathlib\n"
        "    here = pathlib.Path(__file__).parent\n"
        '    net.load_state_dict(safetensors.torch.load_file(here / "own.safetensors"))\n'
        "    return net\n"
    )
    Path("model.py").write_text(own)
    task, warned = prepared()
    assert task.weights.origin == "random"
    assert len(warned) == 1
    assert warned[0].startswith(
        "model.py builds the same weights under every seed. If they are trained, give --weights"
    )
    Path("model.py").write_text(own + "TRAINED = True\n")
    task, warned = prepared()
    assert (task.weights.origin, warned) == ("factory", [])
    settings = task.settings
    assert (settings.objective.kernel_weight, settings.affinity, settings.steps) == (0, False, 6000)
    assert (
        prune.run(task.config.model_copy(update={"steps": 2}), Events().append).teacher == "the factory's own weights"
    )
    what, _ = refusal(UsageError, lambda: prepared(method="ntt-fresh"))
    assert what.startswith("--method ntt-fresh: puts the mask on other random weights, and model.py says TRAINED")


def test_a_factory_that_heeds_the_seed_is_not_suspected() -> None:
    task, warned = prepared()
    assert (task.weights.origin, warned) == ("random", [])
    assert task.settings.affinity
    Path("model.py").write_text(MODEL.replace("    return", "    torch.manual_seed(3)\n    return"))
    assert "builds the same weights under every seed" in prepared()[1][0]


def test_trained_is_true_or_false() -> None:
    Path("model.py").write_text(MODEL + 'TRAINED = "yes"\n')
    what, hint = refusal(NttError, prepared)
    assert what == "model.py: TRAINED is 'yes', not True or False"
    assert hint == "write TRAINED = True if build_model() loads trained weights"


MASKED = """import torch
from torch import nn
DATA = "digits"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 10)
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))
        self.register_buffer("best", torch.tensor(float("nan")))
        self.frozen = nn.Parameter(torch.tensor([float("inf")]), requires_grad=False)

    def forward(self, x):
        rows = self.first(x[:, 0])
        return self.last(((rows @ rows.mT + self.mask).softmax(-1) @ rows).mean(1))

def build_model():
    return Net()
"""


def test_buffers_may_hold_infinity_and_nan() -> None:
    Path("model.py").write_text(MASKED)
    options = {"sparsity": 0.5, "limit": 40, "steps": 2, "device": "cpu", "checkpoint_every": 0}
    prune.run(PruneConfig(model="model.py", **options), Events().append)  # type: ignore[arg-type]
    tune("sparse.safetensors", checkpoint_every=0)
    report, _ = evaluated("tuned.safetensors")
    assert report.accuracy is not None
    assert load_file("tuned.safetensors")["mask"].isinf().sum() == 28


def test_running_statistics_must_be_finite() -> None:
    """Divided by an infinite variance, a channel is zero, and no output tells."""
    path = one(state() | {"2.running_var": torch.full((24,), math.inf)})
    what, _ = refusal(CheckpointError, lambda: evaluated(path))
    assert what == "x.safetensors: 2.running_var holds NaN or infinity"


QUANTISED = MODEL.replace("    return ", "    net = ") + (
    "    import torch.ao.quantization as q\n"
    "    net.qconfig = q.get_default_qat_qconfig('qnnpack')\n"
    "    return q.prepare_qat(net.train())\n"
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Please use quant_min")
def test_fake_quantisation_is_named() -> None:
    Path("model.py").write_text(QUANTISED)
    events = Events()
    config = PruneConfig(model="model.py", sparsity=0.5, limit=20, steps=1, kernel_weight=0, device="cpu")
    prune.run(config, events.append)
    assert events.of(Warned)[0].startswith("fake quantisation moves its ranges by what it sees, in evaluation too")
    assert tune("sparse.safetensors").of(Warned)[0].startswith("fake quantisation")
    what, hint = refusal(ModelError, lambda: prepare(config.model_copy(update={"kernel_weight": 1.0}), events.append))
    assert "has an operation without the derivatives that its kernel needs" in what
    assert "--kernel-weight 0" in hint


STANDARDISED = """import torch
from torch import nn
DATA = "digits"

class Standardised(nn.Linear):
    def forward(self, x):
        deviation, mean = torch.std_mean(self.weight, dim=1, keepdim=True)
        return nn.functional.linear(x, (self.weight - mean) / (deviation + 1e-3), self.bias)

def build_model():
    return nn.Sequential(nn.Flatten(), Standardised(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""


def test_zeros_that_are_none_in_use_are_named_and_save_no_flops() -> None:
    Path("model.py").write_text(STANDARDISED)
    options = {"sparsity": 0.5, "limit": 20, "method": "magnitude", "allocation": "layerwise", "device": "cpu"}
    events = Events()
    prune.run(PruneConfig(model="model.py", **options), events.append)  # type: ignore[arg-type]
    line = "zeros of 1.weight are none where they are used: the network computes other weights from these"
    assert any(text.startswith(line) for text in events.of(Warned))
    report, events = evaluated("sparse.safetensors")
    assert [text for text in events.of(Warned) if text.startswith(line)]
    assert report.density == 0.5
    assert (report.flops_dense, report.flops_sparse) == (2 * (64 * 24 + 240), 2 * (64 * 24 + 120))


SHARED = """import torch
from torch import nn
DATA = "digits"

def build_model(transposed=False):
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = nn.Parameter(first.weight.data.t() if transposed else first.weight.data)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 10))
"""


def test_parameters_over_one_memory_are_one_or_refused() -> None:
    Path("model.py").write_text(SHARED)
    options = {"sparsity": 0.5, "limit": 20, "method": "random", "device": "cpu"}
    report = prune.run(PruneConfig(model="model.py", **options), Events().append)  # type: ignore[arg-type]
    assert [layer.name for layer in report.layers] == ["1.weight", "5.weight"]
    tensors = load_file("sparse.safetensors")
    assert torch.equal(tensors["1.weight"], tensors["3.weight"])
    transposed = PruneConfig(model="model.py", model_arg=("transposed=True",), force=True, **options)  # type: ignore[arg-type]
    what, _ = refusal(ModelError, lambda: prune.run(transposed, Events().append))
    assert "1.weight [64, 64] and 3.weight [64, 64] share memory, and are not one parameter" in what


def test_weights_of_the_factory() -> None:
    """`--weights factory` says the same as `TRAINED = True`."""
    save_file(state(), "w.safetensors")
    Path("own.py").write_text(
        MODEL.replace("build_model", "plain")
        + "def build_model():\n    from safetensors.torch import load_file\n    net = plain()\n"
        "    net.load_state_dict(load_file('w.safetensors'))\n    return net\n"
    )
    options = {"model": "own.py", "sparsity": 0.5, "limit": 20, "device": "cpu"}
    events = Events()
    assert prepare(PruneConfig(**options), events.append).weights.origin == "random"
    assert any("give --weights factory" in message for message in events.of(Warned))
    events = Events()
    job = prepare(PruneConfig(**options, weights="factory"), events.append)
    assert (job.weights.origin, job.settings.affinity, job.settings.steps) == ("factory", False, 6000)
    assert events.of(Warned) == []
    assert torch.equal(job.teacher.params["4.weight"], state()["4.weight"])
    common = {"model": "own.py", "limit": 50, "device": "cpu"}
    report = evaluate.run(EvaluateConfig(**common, checkpoint="factory"), events.append)
    expected = evaluate.run(EvaluateConfig(**common, checkpoint="w.safetensors"), events.append)
    assert (report.accuracy, report.file_bytes) == (expected.accuracy, None)
    with pytest.raises(ValueError, match="no file of weights is named"):
        PruneConfig(**options, weights="factory", ignore_extra=True)

"""Networks of unusual kinds go through every command, resumed runs included, and through the Python functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ntt_cli as ntt
from ntt_cli.config import EvaluateConfig, FinetuneConfig, ModelOptions, PruneConfig
from ntt_cli.errors import ModelError
from ntt_cli.evaluation import evaluate
from ntt_cli.networks.loading.models import load_model
from ntt_cli.pruning import prune
from ntt_cli.results import PruneReport
from ntt_cli.runtime.events import Event
from ntt_cli.runtime.python_source import load_python
from ntt_cli.runtime.signals import Interrupted
from ntt_cli.training import finetune
from tests.cli.conftest import Ntt
from tests.odd_networks import NAMES, ODD
from tests.runs.test_resume import After

pytestmark = [
    pytest.mark.usefixtures("folder"),
    pytest.mark.filterwarnings("ignore:Lazy modules"),
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
]
Config = PruneConfig | FinetuneConfig


@pytest.fixture(autouse=True)
def _file(folder: Path) -> None:
    Path("odd.py").write_text(ODD)


def run(config: Config, stop: After | None = None) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    work: Callable[..., Any] = prune.run if isinstance(config, PruneConfig) else finetune.run
    return work(config, events.append, stop), events


def resumed_is_the_same(config: Config, looks: int) -> Any:
    """The report of a run, after the same run was interrupted and resumed."""
    path = Path(str(config.output))
    report, _ = run(config)
    data = path.read_bytes()
    path.unlink()
    path.with_suffix(".report.safetensors").unlink()
    with pytest.raises(Interrupted):
        run(config, After(looks=looks))
    run(config.model_copy(update={"resume": True}))
    assert path.read_bytes() == data
    return report


@pytest.mark.parametrize("name", NAMES)
def test_every_command(name: str) -> None:
    model = f"odd.py:{name}"
    common: dict[str, Any] = {"model": model, "device": "cpu", "limit": 40}
    pruning = PruneConfig(**common, sparsity=0.6, steps=4, mask_update_every=1, batch_size=8, output="s.safetensors")
    report = resumed_is_the_same(pruning, looks=3)
    assert isinstance(report, PruneReport)
    assert report.kept == sum(layer.kept for layer in report.layers)
    assert report.sparsity == pytest.approx(0.6, abs=0.01)
    own = load_file("s.safetensors")
    assert all(int(own[layer.name].count_nonzero()) == layer.kept for layer in report.layers)

    # Anyone can load the file, and gets the sparse network.
    module = load_model(ModelOptions(model=model), seed=0).module
    missing, unexpected = module.load_state_dict(own, strict=False)
    assert (missing, unexpected) == (["_extra_state"] if name == "Extra" else [], [])

    tuning = FinetuneConfig(**common, checkpoint="s.safetensors", epochs=2, batch_size=12, output="t.safetensors")
    resumed_is_the_same(tuning, looks=3)
    tuned = load_file("t.safetensors")
    assert all(int(tuned[layer.name].count_nonzero()) == layer.kept for layer in report.layers)

    found = evaluate.run(EvaluateConfig(**common, checkpoint="t.safetensors", teacher="t.safetensors"), lambda _: None)
    assert found.agreement is not None
    assert (found.kept, found.agreement.logit_distance) == (report.kept, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_functions(name: str) -> None:
    module = load_python(Path("odd.py"), ModelError)
    torch.manual_seed(0)
    net: nn.Module = getattr(module, name)()
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 10
    pruned = ntt.prune(net, x, sparsity=0.6, steps=3, mask_update_every=1, batch_size=8)
    tuned = ntt.finetune(pruned, (x, y), epochs=1, batch_size=8)
    assert all(torch.equal(tuned.masks[key], mask) for key, mask in pruned.masks.items())
    path = pruned.save("s.safetensors")
    with torch.no_grad():
        expected = pruned.model.eval()(x)
        assert torch.equal(ntt.load(path, net).model.eval()(x), expected)
    if name != "lazy":  # a teacher needs shapes
        agreement = ntt.evaluate(pruned, x, teacher=net).agreement
        assert agreement is not None
        assert agreement.logit_distance < 1


def test_lazy_layers_are_drawn_as_torch_draws_them(ntt: Ntt) -> None:
    """As in a script that seeds torch, builds the network and runs it once."""
    assert ntt("prune", "odd.py:lazy", "-s", "0", "--method", "magnitude", "--seed", "5").code == 0
    torch.manual_seed(5)
    net = load_python(Path("odd.py"), ModelError).lazy().eval()
    net(torch.zeros(1, 1, 8, 8))
    own = load_file("sparse.safetensors")
    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    assert all(torch.equal(own[name], p) for name, p in weights.items())


def test_lazy_layers_without_data(ntt: Ntt) -> None:
    Path("none.py").write_text(ODD.replace('DATA = "digits"', ""))
    result = ntt("prune", "none.py:lazy", "-s", "0.5", "--method", "magnitude")
    assert (result.code, "0.weight has no shape yet" in result.err) == (2, True)
    assert "name data with --data, or write INPUT_SHAPE in model.py" in result.err
    Path("none.py").write_text(ODD.replace('DATA = "digits"', "INPUT_SHAPE = (1, 8, 8)"))
    assert ntt("prune", "none.py:lazy", "-s", "0.5", "--method", "magnitude").code == 0


def test_extra_state_is_warned_of(ntt: Ntt) -> None:
    result = ntt("prune", "odd.py:Extra", "-s", "0.5", "--method", "magnitude")
    assert result.code == 0
    assert "warning: its state dict also holds _extra_state, no tensor, which no file of weights holds" in result.err


def test_an_orthogonal_network_needs_to_match_outputs_alone(ntt: Ntt) -> None:
    Path("o.py").write_text(ODD + "\ndef build_model():\n    return perceptron(parametrizations.orthogonal)\n")
    options = ("o.py", "-s", "0.5", "--steps", 3, "--batch-size", 8, "--limit", 20, "--force")
    result = ntt("prune", *options)
    assert (result.code, "second derivative is wrong" in result.err) == (2, True)
    assert "--kernel-weight 0" in result.err
    assert "builds the same weights under every seed" not in result.err
    assert ntt("prune", *options, "--kernel-weight", 0).code == 0
    assert ntt("finetune", "o.py", "-c", "sparse.safetensors", "--epochs", 1, "--limit", 64).code == 0


REFUSED = """
def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(perceptron().eval(), {nn.Linear}, dtype=torch.qint8)

def masked():
    from torch.nn.utils import prune
    return perceptron(lambda layer: prune.l1_unstructured(layer, "weight", 0.3))

class Stale(Body):
    def __init__(self):
        super().__init__()
        self.sums = self.body[3].weight.sum(1)

    def forward(self, x):
        return super().forward(x) + self.sums

class KeepsGraph(Body):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(64, 10))

    def forward(self, x):
        y = super().forward(x)
        self.kept[: len(y)] = y
        return self.kept[: len(y)]
"""


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "command", "what", "hint"),
    [
        ("quantised", "prune", "1 is quantised: it packs its weights as integers", "prune the network in floating"),
        ("masked", "prune", "1 carries a mask of torch.nn.utils.prune", "call torch.nn.utils.prune.remove(layer, 'w"),
        ("Stale", "prune", "sums is the result of a computation that no pass repeats", "compute it in forward()"),
        ("KeepsGraph", "finetune", "keeps the graph of its last pass in its buffer kept", "write detached values"),
    ],
)
def test_what_is_refused_in_a_sentence(ntt: Ntt, name: str, command: str, what: str, hint: str) -> None:
    Path("odd.py").write_text(ODD + REFUSED)
    options = ("-s", "0.5", "--steps", 2, "--batch-size", 8) if command == "prune" else ("--epochs", 1)
    result = ntt(command, f"odd.py:{name}", *options, "--limit", 40)
    assert result.code == 2
    assert what in result.err
    assert f"hint: {hint}" in result.err

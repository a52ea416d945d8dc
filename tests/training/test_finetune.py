from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ntt_cli.config import FinetuneConfig, ModelOptions, PruneConfig
from ntt_cli.errors import CheckpointError, DataError, DivergedError, ModelError, NttError, OutputError
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.metadata import MeanStd, Normalisation, ReportRecord, read_header
from ntt_cli.networks.loading.models import load_model
from ntt_cli.pruning import prune
from ntt_cli.results import FinetuneReport
from ntt_cli.runtime.events import EpochDone, Event, Noted, TrainingStarted, TrainingStepsDone, Warned
from ntt_cli.training import finetune
from ntt_cli.training.job import prepare
from ntt_cli.training.step import SparseModule, default_learning_rate, training_step
from tests.small_networks import write_network

DENSE, SPARSE, TUNED = (Path(f"{name}.safetensors") for name in ("dense", "sparse", "tuned"))

pytestmark = pytest.mark.usefixtures("folder")


def config(name: str = "plain", **values: Any) -> FinetuneConfig:
    return FinetuneConfig(model=write_network(name), **({"epochs": 1, "limit": 200, "device": "cpu"} | values))


def run(name: str = "plain", **values: Any) -> FinetuneReport:
    return finetune.run(config(name, **values), lambda _: None)


def refusal(error: type[NttError], name: str = "plain", **values: Any) -> NttError:
    """The run must raise this error, and write nothing."""
    chosen = config(name, **values)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    with pytest.raises(error) as caught:
        finetune.run(chosen, lambda _: None)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    return caught.value


def sparse(name: str = "plain", **values: Any) -> str:
    """A sparse checkpoint by a random mask, which takes no time."""
    options = {"sparsity": 0.8, "method": "random", "limit": 20, "device": "cpu", "force": True}
    prune.run(PruneConfig(model=write_network(name), **(options | values)), lambda _: None)
    return str(SPARSE)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def zeros(path: Path) -> dict[str, Tensor]:
    return {name: value == 0 for name, value in load_file(path).items() if value.dim() > 1}


def blobs(n: int = 200, classes: int = 3) -> str:
    """Images of noise around one pattern a class, easy to learn."""
    generator = np.random.default_rng(0)
    y = np.arange(n) % classes
    patterns = generator.normal(size=(classes, 1, 8, 8))
    np.savez("blobs.npz", x=(patterns[y] + 0.3 * generator.normal(size=(n, 1, 8, 8))).astype(np.float32), y=y)
    return "blobs.npz"


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["plain", "convolutional", "tied"])
def test_zeros_stay_zero(name: str, optimiser: str) -> None:
    before = load_file(sparse(name))
    run(name, checkpoint=str(SPARSE), optimiser=optimiser, weight_decay=0.1, epochs=2, learning_rate=0.01)
    after = load_file(TUNED)
    masks, old_masks = read_checkpoint(TUNED).masks, read_checkpoint(SPARSE).masks
    assert masks.keys() == old_masks.keys()
    for weight, mask in masks.items():
        assert torch.equal(mask, old_masks[weight])
        assert not after[weight][~mask].any()
        assert (after[weight][mask] != before[weight][mask]).float().mean() > 0.5
    student = load_model(ModelOptions(model=write_network(name)), seed=0).module
    student.load_state_dict(after, strict=True)


def test_batch_norm_keeps_learning() -> None:
    before = load_file(sparse("convolutional"))
    run("convolutional", checkpoint=str(SPARSE))
    after = load_file(TUNED)
    assert after["1.num_batches_tracked"] > before["1.num_batches_tracked"]
    assert not torch.equal(after["1.running_mean"], before["1.running_mean"])


def test_a_dense_network_learns() -> None:
    report = run(data=blobs(), epochs=10, batch_size=16)
    assert (report.output, report.density, report.data) == ("dense.safetensors", 1.0, "blobs.npz")
    assert report.accuracy is not None
    assert report.accuracy > 0.9
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss / 2
    checkpoint = read_checkpoint(DENSE)
    assert checkpoint.record is not None
    assert (checkpoint.record.kind, checkpoint.masks) == ("finetune", {})


def test_a_sparse_network_learns() -> None:
    report = run(checkpoint=sparse(sparsity=0.6, data=blobs()), data=blobs(), epochs=10, batch_size=16)
    assert report.output == "tuned.safetensors"
    assert report.density == pytest.approx(0.4, abs=1e-3)
    assert report.accuracy is not None
    assert report.accuracy > 0.9


@pytest.mark.parametrize("name", ["plain", "dropout", "convolutional"])
def test_the_same_run_writes_the_same_bytes(name: str) -> None:
    torch.manual_seed(1)
    run(name)
    torch.manual_seed(2)
    random = torch.get_rng_state()
    run(name, output="b.safetensors")
    assert torch.equal(torch.get_rng_state(), random)
    run(name, output="c.safetensors", seed=1)
    assert digest(DENSE) == digest(Path("b.safetensors")) != digest(Path("c.safetensors"))


def test_dropout_is_on_while_training() -> None:
    write_network("plain")
    state = load_model(ModelOptions(model="plain.py"), seed=0).module.state_dict()
    save_file(state, "start.safetensors")
    run("plain", checkpoint="start.safetensors", output="a.safetensors")
    run("dropout", checkpoint="start.safetensors", output="b.safetensors")
    assert not torch.equal(load_file("a.safetensors")["fc2.weight"], load_file("b.safetensors")["fc2.weight"])


def test_the_best_epoch_is_kept() -> None:
    # A rate at which the accuracy rises and falls.
    options: dict[str, Any] = {
        "data": blobs(150, 10),
        "epochs": 8,
        "learning_rate": 0.05,
        "optimiser": "sgd",
        "validation": 0.4,
        "rate_schedule": "constant",
        "warmup": 0,
        "batch_size": 8,
    }
    report = run(**options)
    accuracies = [epoch.accuracy for epoch in report.epochs]
    assert None not in accuracies
    assert report.accuracy == max(accuracies, key=float) == accuracies[report.best_epoch - 1]
    # The rate is constant and the order seeded, so that a run of so many epochs is the beginning of the longer one.
    shorter = run(**(options | {"epochs": report.best_epoch, "output": "b.safetensors"}))
    assert shorter.epochs == report.epochs[: report.best_epoch]
    assert all(torch.equal(value, load_file(DENSE)[name]) for name, value in load_file("b.safetensors").items())
    task = prepare(config(**options), lambda _: None)
    network = load_model(ModelOptions(model="plain.py"), seed=0).module.eval()
    network.load_state_dict(load_file(DENSE))
    everything = torch.arange(len(task.validation))
    with torch.no_grad():
        hits = network(task.validation.batch(everything)).argmax(1) == task.validation.labelled(everything)[1]
    assert float(hits.double().mean()) == pytest.approx(report.accuracy)


def test_the_validation_samples_are_not_trained_on() -> None:
    task = prepare(config(data=blobs(40), validation=0.25), lambda _: None)
    assert (len(task.training), len(task.validation)) == (30, 10)
    rows = [part.batch(torch.arange(len(part))).flatten(1) for part in (task.training, task.validation)]
    assert len(torch.cat(rows).unique(dim=0)) == 40


def test_without_validation_the_last_epoch_counts() -> None:
    report = run(validation=0, epochs=2)
    assert (report.best_epoch, report.accuracy, [epoch.accuracy for epoch in report.epochs]) == (2, None, [None, None])
    assert "history.accuracy" not in load_file(report.report)


def test_the_report_repeats_the_run() -> None:
    events: list[Event] = []
    sparse()
    report = finetune.run(config(checkpoint=str(SPARSE), epochs=3, batch_size=50), events.append)
    record = read_header(Path(report.report)).record
    assert isinstance(record, ReportRecord)
    assert record.summary == report.model_dump(mode="json")
    tensors = load_file(report.report)
    assert tensors["history.train_loss"].tolist() == pytest.approx([epoch.train_loss for epoch in report.epochs])
    assert tensors["history.accuracy"].tolist() == pytest.approx([epoch.accuracy for epoch in report.epochs])
    assert {name for name in tensors if name.startswith("mask.")} == {"mask.fc1.weight", "mask.fc2.weight"}
    assert events[0] == Noted("weights: sparse.safetensors (by ntt prune): 4 tensors")
    assert [type(event) for event in events[1:4]] == [Noted, Noted, Noted]  # of the data, and of what there is to do
    assert events[4] == TrainingStarted(epochs=3, steps_per_epoch=3)  # 180 samples, the short batch dropped
    assert [event for event in events if isinstance(event, EpochDone)] == [
        EpochDone(epoch.epoch, epoch.train_loss, epoch.accuracy) for epoch in report.epochs
    ]
    assert [event.step for event in events if isinstance(event, TrainingStepsDone)] == [3, 6, 9]


def test_the_default_rate_knows_the_density() -> None:
    dense, thin = run(), run(checkpoint=sparse())
    assert dense.learning_rate == default_learning_rate("adamw", density=1.0)
    assert thin.learning_rate == default_learning_rate("adamw", density=thin.density) > dense.learning_rate
    assert run(learning_rate=0.5, force=True).learning_rate == 0.5


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup": 0}, [8, 4 * (1 + math.sqrt(3) / 2), 6, 4, 2, 4 * (1 - math.sqrt(3) / 2)]),
        ({"warmup": 0.2}, [4, 8, 5 + math.sqrt(5), 3 + math.sqrt(5), 5 - math.sqrt(5), 3 - math.sqrt(5)]),
        ({}, [8, 4 * (1 + math.sqrt(3) / 2), 6, 4, 2, 4 * (1 - math.sqrt(3) / 2)]),  # 5% of six steps is no step
        ({"warmup": 0, "rate_schedule": "constant"}, [8] * 6),
        ({"warmup": 0.5, "rate_schedule": "constant"}, [2, 4, 6, 8, 8, 8]),
    ],
)
def test_the_rate_follows_its_schedule(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: list[float], optimiser: str
) -> None:
    rates: list[float] = []

    def step(network: SparseModule, used: torch.optim.Optimizer, *args: Any, **rest: Any) -> Tensor:
        rates.append(used.param_groups[0]["lr"] * 1000)
        return training_step(network, used, *args, **rest)

    monkeypatch.setattr(finetune, "training_step", step)
    run(**options, optimiser=optimiser, learning_rate=0.008, validation=0, batch_size=100, epochs=3)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(("optimiser", "longest"), [("sgd", 1.0), ("adamw", None)])
def test_gradients_of_sgd_are_cut(monkeypatch: pytest.MonkeyPatch, optimiser: str, longest: float | None) -> None:
    given: set[float | None] = set()

    def step(*args: Any, **rest: Any) -> Tensor:
        given.add(rest["longest"])
        return training_step(*args, **rest)

    monkeypatch.setattr(finetune, "training_step", step)
    run(optimiser=optimiser)
    assert given == {longest}


def test_standardisation_travels() -> None:
    sparse(mean="0.4", std="2")
    run(checkpoint=str(SPARSE), data=blobs())
    for path in (SPARSE, TUNED):
        assert read_checkpoint(path).normalisation == Normalisation(MeanStd((0.4,), (2.0,)), "--mean and --std")


def test_tokens() -> None:
    x = np.random.default_rng(0).integers(0, 20, (60, 6))
    np.savez("tokens.npz", x=x, y=x.sum(1) % 3)
    sparse("tokens", data="tokens.npz")
    report = run("tokens", checkpoint=str(SPARSE), data="tokens.npz")
    assert report.density == pytest.approx(0.2, abs=0.01)
    assert read_checkpoint(TUNED).normalisation is None


def test_frozen_parameters_stay_as_they_are() -> None:
    events: list[Event] = []
    finetune.run(config("partly frozen"), events.append)
    assert events[0] == Warned("frozen parameters stay as they are and dense: fc1.weight, fc1.bias")
    start = load_model(ModelOptions(model="partly_frozen.py"), seed=0).module.state_dict()
    trained = load_file(DENSE)
    assert [name for name in start if torch.equal(start[name], trained[name])] == ["fc1.weight", "fc1.bias"]


@pytest.mark.parametrize("name", ["frozen", "detached", "tuple in training", "nan weight", "batch statistics"])
def test_networks_that_cannot_be_trained(name: str) -> None:
    assert refusal(ModelError, name).exit_code == 2


def test_a_batch_of_one_and_batch_norm() -> None:
    assert "--batch-size" in refusal(ModelError, "small batches fail", batch_size=1).hint


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "has no labels; fine-tuning needs them"),
        (np.arange(8) + 5, "label 10 of sample 5 is out of range: the model has 10 outputs"),
        (np.arange(8) - 1, "the label of sample 0 is -1"),
        (np.arange(8) / 2, "has labels of type float32"),
        (np.arange(7), "has 8 inputs but 7 labels"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, words: str) -> None:
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    np.savez("data.npz", **({"x": x} if labels is None else {"x": x, "y": labels}))
    assert words in str(refusal(DataError, data="data.npz"))


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 1e25},
        {"learning_rate": 1e25, "optimiser": "sgd"},
        {"learning_rate": 1e37, "batch_size": 1000},  # the only step leaves numbers that no validation can use
    ],
)
def test_numbers_that_diverge(options: dict[str, Any]) -> None:
    error = refusal(DivergedError, epochs=2, **options)
    assert error.exit_code == 3
    assert "no longer finite" in str(error)
    assert "nothing was written" in error.hint


def test_a_checkpoint_of_another_model() -> None:
    sparse("tied")
    assert "extra first.weight [64, 64]" in str(refusal(CheckpointError, checkpoint=str(SPARSE)))


def test_existing_files() -> None:
    DENSE.write_text("mine")
    assert "exists already" in str(refusal(OutputError))
    TUNED.write_text("mine")
    assert "tuned.safetensors" in str(refusal(OutputError, checkpoint=sparse()))
    run(force=True)
    assert read_checkpoint(DENSE).record is not None


def test_one_sample_is_too_few() -> None:
    assert "has 1 samples" in str(refusal(DataError, limit=1))
    assert run(limit=2).epochs


def test_an_output_may_replace_its_checkpoint() -> None:
    sparse()
    before = zeros(SPARSE)
    run(checkpoint=str(SPARSE), output=str(SPARSE), force=True)
    assert all(torch.equal(value, before[name]) for name, value in zeros(SPARSE).items())
    assert isinstance(read_checkpoint(SPARSE).record, object)


def test_the_network_of_the_user_is_trained_as_it_is() -> None:
    """One step of SGD by hand, along a gradient that is cut to norm 1."""
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32), y=np.arange(6))
    run(data="data.npz", optimiser="sgd", validation=0, rate_schedule="constant", learning_rate=0.1, mean="0", std="1")
    network = load_model(ModelOptions(model="plain.py"), seed=0).module
    data = np.load("data.npz")
    loss = nn.functional.cross_entropy(network(torch.from_numpy(data["x"])), torch.from_numpy(data["y"]))
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 1
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        assert torch.allclose(load_file(DENSE)[name], parameter - 0.1 * gradient / norm, atol=1e-6)

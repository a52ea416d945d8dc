from __future__ import annotations

import gc
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ntt_cli.config import ModelOptions, PruneConfig
from ntt_cli.errors import CheckpointError, DataError, DivergedError, ModelError, NttError, OutputError, UsageError
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.metadata import MeanStd, Normalisation, ReportRecord, read_header
from ntt_cli.methods.ntt import score as ntt_score
from ntt_cli.networks.loading.models import load_model
from ntt_cli.pruning import measures as prune_measures
from ntt_cli.pruning import prune
from ntt_cli.results import PruneReport
from ntt_cli.runtime.events import Event, MasksUpdated, Noted, StepsDone, TransferStarted, Warned
from tests.parts import read_of
from tests.small_networks import write_network

OUT = "sparse.safetensors"


def config(name: str = "plain", **values: Any) -> PruneConfig:
    options: dict[str, Any] = {"sparsity": 0.8, "steps": 4, "limit": 6, "device": "cpu"}
    return PruneConfig(model=write_network(name), **read_of(options, values))


def run(name: str = "plain", **values: Any) -> PruneReport:
    return prune.run(config(name, **values), lambda _: None)


def refusal(error: type[NttError], name: str = "plain", **values: Any) -> NttError:
    """The run must raise this error, and write nothing."""
    chosen = config(name, **values)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    with pytest.raises(error) as caught:
        prune.run(chosen, lambda _: None)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    return caught.value


def network(name: str = "plain", *, seed: int = 0) -> nn.Module:
    return load_model(ModelOptions(model=write_network(name)), seed=seed).module


def kept(path: str = OUT) -> int:
    """Counted without ntt: what is not zero among the weights with two or more dimensions."""
    return sum(int(value.count_nonzero()) for value in load_file(path).values() if value.dim() > 1)


def digest(path: str = OUT) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("allocation", ["erk", "layerwise", "global"])
@pytest.mark.parametrize(("sparsity", "steps"), [(0.9, 1), (0.5, 2), (0.973, 7), (1 / 3, 11), (0.998, 15)])
def test_counts_are_exact(sparsity: float, steps: int, allocation: str) -> None:
    report = run(sparsity=sparsity, steps=steps, allocation=allocation, mask_update_every=3)
    prunable = 64 * 16 + 16 * 10
    expected = round((1 - sparsity) * prunable)
    assert (kept(), report.kept, report.prunable) == (expected, expected, prunable)
    assert sum(layer.kept for layer in report.layers) == expected
    assert all(layer.kept >= 1 for layer in report.layers)
    assert report.sparsity == pytest.approx(1 - expected / prunable)
    assert report.steps == steps


@pytest.mark.parametrize("options", [{}, {"score": "magnitude"}, {"kernel_params": "active"}, {"preset": "paper"}])
def test_other_ways_keep_as_many(options: dict[str, Any]) -> None:
    assert run(**options).kept == kept() == 237


def test_the_same_run_writes_the_same_bytes() -> None:
    random = torch.get_rng_state()
    run()
    first = digest()
    run(output="another.safetensors")
    assert digest("another.safetensors") == first
    run(output="third.safetensors", seed=1)
    assert digest("third.safetensors") != first
    masks, others = (read_checkpoint(Path(name)).masks for name in (OUT, "third.safetensors"))
    assert not torch.equal(masks["fc1.weight"], others["fc1.weight"])
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("options", [{}, {"kernel_weight": 0}, {"batches": 2}], ids=str)
def test_a_batch_in_parts_is_the_same_batch(options: dict[str, Any]) -> None:
    whole = run(**options, kernels=True)
    parts = run(**options, kernels=True, micro_batch=5, output="parts.safetensors")
    assert parts.kept == whole.kept
    first, second = load_file(OUT), load_file("parts.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-5)
    assert parts.agreement.kernel_distance == pytest.approx(whole.agreement.kernel_distance, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"kernel_weight": 0}], ids=str)
def test_a_network_too_large_for_a_batch_is_pruned_in_smaller_ones(options: dict[str, Any]) -> None:
    events: list[Event] = []
    prune.run(config("greedy", limit=9, batch_size=64, **options), events.append)
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert warned == ["memory ran out; going on with --micro-batch 8"]
    run("greedy", limit=9, batch_size=64, micro_batch=8, output="small.safetensors", **options)
    first, second = load_file(OUT), load_file("small.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_network_too_large_for_any_batch_is_refused() -> None:
    error = refusal(UsageError, "greedy", limit=9, batch_size=64, micro_batch=60)
    assert str(error) == "--micro-batch 15: does not fit into memory: full"


def test_the_global_generator_plays_no_part() -> None:
    torch.manual_seed(1)
    run("dropout")
    first = digest()
    torch.manual_seed(2)
    run("dropout", force=True)
    assert digest() == first


def test_the_report_repeats_the_checkpoint() -> None:
    events: list[Event] = []
    report = prune.run(config(steps=40), events.append)
    assert (report.output, report.report) == (OUT, "sparse.report.safetensors")
    checkpoint, tensors = read_checkpoint(Path(OUT)), load_file(report.report)
    for layer in report.layers:
        weight, mask = checkpoint.tensors[layer.name], checkpoint.masks[layer.name]
        bits = np.unpackbits(tensors[f"mask.{layer.name}"].numpy(), count=layer.size)
        assert torch.equal(torch.from_numpy(bits).bool().view(layer.shape), mask)
        assert (layer.kept, layer.size, layer.shape) == (int(mask.sum()), mask.numel(), tuple(mask.shape))
        assert layer.density == layer.kept / layer.size
        assert int(tensors[f"layer.{layer.name}.kept"]) == layer.kept
        assert float(tensors[f"layer.{layer.name}.density"]) == layer.density
        assert torch.allclose(tensors[f"layer.{layer.name}.norm"], weight.norm())
    record = read_header(Path(report.report)).record
    assert isinstance(record, ReportRecord)
    assert record.summary == report.model_dump(mode="json")
    assert tensors["history.total"].shape == tensors["history.kernel_distance"].shape == (40,)
    updates = [event for event in events if isinstance(event, MasksUpdated)]
    assert tensors["history.mask_update_step"].tolist() == [event.step for event in updates]
    assert tensors["history.mask_changes"].tolist() == [event.changes for event in updates]
    assert updates[-1].density == pytest.approx(0.2)
    assert Noted("prunable: 1,184 weights in 2 layers") in events
    begun = next(event for event in events if not isinstance(event, Noted))
    assert begun == TransferStarted(40, {"fc1.weight": 1024, "fc2.weight": 160})
    assert [event.step for event in events if isinstance(event, StepsDone)][-1] == 40
    assert report.kernels is not None
    assert report.kernels.samples == 6
    assert 0 < report.kernels.alignment < 1
    assert tensors["residual.student"].shape == tensors["residual.times"].shape == (64,)
    assert (tensors["residual.teacher"].diff() <= 0).all()
    spectrum = tensors["spectrum.teacher"]
    assert (spectrum > -1e-3).all()
    assert spectrum.max() > 0


def test_without_the_kernel_term_no_kernel_distance_is_taken() -> None:
    events: list[Event] = []
    report = prune.run(config(steps=40, kernel_weight=0), events.append)
    assert "history.kernel_distance" not in load_file(report.report)
    assert {event.kernel_distance for event in events if isinstance(event, StepsDone)} == {None}


def test_the_checkpoint_says_where_it_came_from() -> None:
    run(exclude=("fc2.*",), seed=3)
    record = read_checkpoint(Path(OUT)).record
    assert record is not None
    assert (record.kind, record.model.source) == ("prune", "plain.py")
    assert record.model.sha256 == hashlib.sha256(Path("plain.py").read_bytes()).hexdigest()
    assert (record.config["seed"], record.config["exclude"], record.config["sparsity"]) == (3, ["fc2.*"], 0.8)
    assert "output" not in record.config
    used = {"steps": 4, "batch_size": 64, "kernel_weight": 1, "weight_penalty": 0, "allocation": "erk"}
    assert used.items() <= record.config.items()


def test_agreement_is_with_the_teacher() -> None:
    report = run(limit=None)
    digits = np.load(Path(prune.__file__).parent.parent / "resources" / "digits.npz")["x_train"]
    x = torch.from_numpy(np.rint(digits * (255 / 16)) / 255).float().view(-1, 1, 8, 8)
    x = (x - x.mean()) / x.std(correction=0)
    teacher, student = network(), network()
    student.load_state_dict(load_file(OUT), strict=True)
    with torch.no_grad():
        ours, theirs = student(x), teacher(x)
    assert report.agreement is not None
    distance = float((ours - theirs).square().sum() / theirs.square().sum())
    assert report.agreement.logit_distance == pytest.approx(distance, rel=1e-4)
    assert report.agreement.top1_agreement == pytest.approx(
        float((ours.argmax(1) == theirs.argmax(1)).double().mean()), abs=2e-3
    )
    assert 0 < report.agreement.kernel_distance < 2


def test_the_transfer_brings_the_student_closer() -> None:
    begin, end = (run(steps=steps, limit=40, force=True).agreement for steps in (1, 80))
    assert begin is not None
    assert end is not None
    assert end.logit_distance < begin.logit_distance / 1.5
    assert end.kernel_distance < begin.kernel_distance


def test_nothing_removed() -> None:
    report = run(sparsity=0, kernels=True)
    teacher = network().state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in load_file(OUT).items())
    assert (report.kept, report.sparsity, report.steps) == (1184, 0, 0)
    assert report.agreement is not None
    distances = {"logit_distance": 0, "kernel_distance": 0, "relative_error": 0}
    assert report.agreement.model_dump() == distances | {"top1_agreement": 1, "cosine": 1}
    assert report.kernels is not None
    assert report.kernels.alignment == pytest.approx(1)
    assert report.kernels.effective_rank_student == report.kernels.effective_rank_teacher
    assert prune.plan(config(sparsity=0), lambda _: None).kept == 1184
    assert all(mask.all() for mask in read_checkpoint(Path(OUT)).masks.values())


@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_one_shot_methods_need_no_data(method: str) -> None:
    report = run("tokens", method=method, sparsity=0.5, include=("embedding.weight",), limit=None)
    assert (report.kept, report.data, report.agreement, report.steps) == (kept(), None, None, 0)
    teacher = network("tokens").state_dict()
    for name, mask in read_checkpoint(Path(OUT)).masks.items():
        assert torch.equal(load_file(OUT)[name], torch.where(mask, teacher[name], 0.0))
    assert read_checkpoint(Path(OUT)).normalisation is None


def test_magnitude_keeps_the_largest() -> None:
    run(method="magnitude", allocation="layerwise", sparsity=0.75)
    for name, mask in read_checkpoint(Path(OUT)).masks.items():
        size = network().get_parameter(name).detach().abs()
        assert int(mask.sum()) == mask.numel() // 4
        assert size[mask].min() >= size[~mask].max()


@pytest.mark.parametrize("allocation", ["erk", "layerwise", "global"])
def test_saliency_keeps_the_largest(monkeypatch: pytest.MonkeyPatch, allocation: str) -> None:
    """By numbers that are made up, in one step, so that masks are chosen once, on the teacher's weights."""
    sizes = {name: weight.detach().abs() for name, weight in network("four layers").named_parameters()}
    generator = torch.Generator().manual_seed(0)
    made_up = {name: torch.randn(size.shape, generator=generator).exp() ** 8 for name, size in sizes.items()}
    related = {name: torch.rand(sizes[name].shape, generator=generator) for name in ("fc1.weight", "first.weight")}
    monkeypatch.setattr(ntt_score, "logit_sensitivities", lambda *_, **__: dict(made_up))
    monkeypatch.setattr(ntt_score, "input_correlations", lambda *_: dict(related))
    run("four layers", steps=1, allocation=allocation)
    masks = read_checkpoint(Path(OUT)).masks
    within = {name: sizes[name] * made_up[name] ** (1 / 6) for name in masks}
    for name, correlations in related.items():
        kept_per_unit = int(masks[name].sum()) / len(masks[name])
        assert kept_per_unit > 10
        within[name] *= torch.exp(min(kept_per_unit - 10, 10) * (correlations - 1))
    assert all(within[name][mask].min() > within[name][~mask].max() for name, mask in masks.items())
    if allocation == "global":
        across = {name: sizes[name] * made_up[name] ** (1 / 4) for name in masks}
        total = sum(int(mask.sum()) for mask in masks.values())
        lowest = torch.cat([score.flatten() for score in across.values()]).sort(descending=True).values[total - 1]
        assert all(int(mask.sum()) == int((across[name] >= lowest).sum()) for name, mask in masks.items())


def test_inputs_that_vary_together_count_for_random_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def none_found(*about: object) -> dict[str, Tensor]:
        asked.append(about)
        return {}

    monkeypatch.setattr(ntt_score, "input_correlations", none_found)
    save_file(network(seed=7).state_dict(), "dense.safetensors")
    run(weights="dense.safetensors")
    assert not asked
    run(force=True)
    assert asked


def test_random_masks_follow_the_seed() -> None:
    run(method="random", seed=1)
    run(method="random", seed=2, output="b.safetensors")
    one, two = (read_checkpoint(Path(name)).masks["fc1.weight"] for name in (OUT, "b.safetensors"))
    assert int(one.sum()) == int(two.sum())
    assert not torch.equal(one, two)


def test_a_pretrained_teacher() -> None:
    dense = network(seed=7).state_dict()
    save_file(dense, "dense.safetensors")
    report = run(weights="dense.safetensors", sparsity=0)
    assert report.teacher == "dense.safetensors"
    assert all(torch.equal(value, dense[name]) for name, value in load_file(OUT).items())
    assert run(sparsity=0, force=True).teacher == "random weights, seed 0"


def test_a_teachers_standardisation_is_used_and_handed_on() -> None:
    run(mean="0.5", std="2", sparsity=0, output="dense.safetensors")
    run(weights="dense.safetensors", data="digits")
    handed_on = read_checkpoint(Path(OUT)).normalisation
    assert handed_on == Normalisation(MeanStd((0.5,), (2.0,)), "--mean and --std")


def test_weights_of_another_model() -> None:
    save_file({"fc1.weight": torch.zeros(3, 3)}, "dense.safetensors")
    error = refusal(CheckpointError, weights="dense.safetensors")
    assert "belongs to another model" in str(error)
    assert "missing fc2.bias [10]" in str(error)


def test_excluded_weights_stay_dense() -> None:
    report = run(exclude=("fc2.*",))
    assert [layer.name for layer in report.layers] == ["fc1.weight"]
    assert report.kept == round(0.2 * 1024)
    assert load_file(OUT)["fc2.weight"].count_nonzero() == 160


def test_tied_weights_count_once() -> None:
    report = run("tied")
    assert [layer.name for layer in report.layers] == ["fc1.weight", "fc2.weight", "first.weight"]
    assert report.prunable == 1024 + 160 + 64 * 64
    tensors = load_file(OUT)
    assert torch.equal(tensors["first.weight"], tensors["second.weight"])
    student = network("tied")
    student.load_state_dict(tensors, strict=True)
    assert student.get_parameter("first.weight") is student.get_submodule("second").weight


def test_frozen_weights_stay_as_they_are() -> None:
    events: list[Event] = []
    report = prune.run(config("partly frozen"), events.append)
    assert events[0] == Warned("frozen parameters stay as they are and dense: fc1.weight, fc1.bias")
    assert [layer.name for layer in report.layers] == ["fc2.weight"]
    teacher, tensors = network("partly frozen").state_dict(), load_file(OUT)
    for name in ("fc1.weight", "fc1.bias"):
        assert torch.equal(tensors[name], teacher[name])
    assert not torch.equal(tensors["fc2.bias"], teacher["fc2.bias"])


def test_batch_norm_learns_its_statistics_from_the_data() -> None:
    run("convolutional", limit=None)
    tensors = load_file(OUT)
    assert tensors["1.num_batches_tracked"] > 0
    assert tensors["1.weight"].count_nonzero() == 4
    student = network("convolutional")
    student.load_state_dict(tensors, strict=True)
    x = prune.prepare(config("convolutional", limit=None), lambda _: None).inputs
    assert x is not None
    with torch.no_grad():
        before_norm = student.get_submodule("0")(x.batch(torch.arange(len(x))))
    assert torch.allclose(tensors["1.running_mean"], before_norm.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(tensors["1.running_var"], before_norm.var((0, 2, 3)), rtol=0.1)


def test_without_a_kernel_term_statistics_are_those_of_the_last_weights() -> None:
    """Steps normalise by their own batch, so any statistics from before them would be out of date."""
    values = {"kernel_weight": 0.0, "limit": None, "learning_rate": 0.05, "schedule": "constant"}
    run("convolutional", **values)
    tensors, student = load_file(OUT), network("convolutional")
    student.load_state_dict(tensors, strict=True)
    x = prune.prepare(config("convolutional", **values), lambda _: None).inputs
    assert x is not None
    with torch.no_grad():
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        before_norm = [student.get_submodule("0")(x.batch(part)) for part in order.split(128)]
    means = torch.stack([part.mean((0, 2, 3)) for part in before_norm]).mean(0)
    torch.testing.assert_close(tensors["1.running_mean"], means)


def test_channels_that_die_do_not_rule_the_kernel() -> None:
    """With every weight pruned a channel has no variance, and its statistics would multiply its gradients by 300."""
    values = {"sparsity": 0.985, "steps": 40, "limit": None}
    report = run("convolutional", **values)
    tensors = load_file(OUT)
    alive = tensors["0.weight"].flatten(1).count_nonzero(dim=1) > 0
    assert not alive.all()
    teacher = prune.prepare(config("convolutional", **values), lambda _: None).teacher.buffers["1.running_var"]
    assert (tensors["1.running_var"] >= 0.1 * teacher).all()
    assert torch.equal(tensors["1.running_var"][~alive], 0.1 * teacher[~alive])
    assert report.agreement is not None
    assert report.agreement.kernel_distance is not None
    assert report.agreement.kernel_distance < 2


def test_tokens() -> None:
    np.savez("tokens.npz", x=np.random.default_rng(0).integers(0, 20, (40, 6)))
    report = run("tokens", data="tokens.npz", sparsity=0.5, steps=10, include=("embedding.weight",))
    assert report.kept == kept() == round(0.5 * (20 * 8 + 8 * 3))
    assert read_checkpoint(Path(OUT)).normalisation is None


def test_a_layer_that_begins_at_zero() -> None:
    run("zeros", method="magnitude", sparsity=0.5, allocation="layerwise")
    tensors = load_file(OUT)
    assert tensors["fc2.weight"].count_nonzero() == 80
    assert tensors["fc2.weight"].abs().max() < 1e-30


@pytest.mark.parametrize("sparsity", [0.9989, 0.999999])
def test_less_than_one_weight_a_layer(sparsity: float) -> None:
    error = refusal(UsageError, sparsity=sparsity)
    assert error.where == f"--sparsity {sparsity}"
    assert "too high for this model" in str(error)
    highest = float(error.hint.removeprefix("use at most "))
    assert run(sparsity=highest).kept == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 1, "learning_rate": 1e38}, "the student's weights are no longer finite"),
        ({"steps": 1, "learning_rate": 1e12}, "its outputs are no longer finite"),
        ({"steps": 60, "learning_rate": 1e9}, "no longer finite"),
    ],
)
def test_numbers_that_diverge(options: dict[str, Any], words: str) -> None:
    error = refusal(DivergedError, **options)
    assert error.exit_code == 3
    assert words in str(error)
    assert "--learning-rate" in error.hint


def test_existing_files() -> None:
    Path(OUT).write_text("mine")
    assert "exists already" in str(refusal(OutputError))
    Path(OUT).rename("sparse.report.safetensors")
    assert "sparse.report.safetensors: exists already" in str(refusal(OutputError))
    run(force=True)
    assert read_checkpoint(Path(OUT)).masks


def test_an_output_is_refused_before_any_work(folder: Path) -> None:
    marker = "from pathlib import Path\nPath('started').touch()\n"
    options = PruneConfig(model="loud.py", sparsity=0.5, output="missing/x.safetensors")
    (folder / "loud.py").write_text(marker)
    with pytest.raises(OutputError):
        prune.run(options, lambda _: None)
    assert not Path("started").exists()


@pytest.mark.parametrize("name", ["one derivative", "detached", "unused", "no weights", "frozen", "nan weight"])
def test_networks_that_cannot_be_pruned(name: str) -> None:
    refusal(ModelError, name)


@pytest.mark.parametrize("values", [{"kernel_weight": 0}, {"method": "magnitude"}, {"sparsity": 0}])
def test_a_network_without_a_kernel_is_pruned_by_its_logits(values: dict[str, Any]) -> None:
    """Derivatives that are not needed are not asked for."""
    events: list[Event] = []
    assert prune.run(config("one derivative", **values), events.append).kernels is None
    assert not [event for event in events if isinstance(event, Warned)]
    events.clear()
    report = prune.run(config("one derivative", kernels=True, force=True, **values), events.append)
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert warning.startswith("one_derivative.py: has an operation without the derivatives that its kernel needs: ")
    assert warning.endswith("; no kernel distance is measured")
    assert report.agreement is not None
    assert report.agreement.kernel_distance is None
    assert report.kernels is not None  # those of a few samples need first derivatives alone


def test_epochs_count_passes_over_the_data() -> None:
    assert run(steps=None, epochs=2.5, batch_size=16, limit=10).steps == math.ceil(2.5 * 10 / 16)
    assert run(steps=None, epochs=0.01, force=True).steps == 1


def test_two_samples_are_enough_and_one_is_not() -> None:
    run(limit=2)
    assert "has 1 samples" in str(refusal(DataError, limit=1, output="b.safetensors"))


@pytest.mark.parametrize("method", ["ntt", "random"])
def test_a_plan_writes_nothing(method: str) -> None:
    chosen = config(method=method, **({"steps": 1000} if method == "ntt" else {}))
    before = set(Path().iterdir())
    plan = prune.plan(chosen, lambda _: None)
    assert set(Path().iterdir()) == before
    assert (plan.parameters, plan.prunable, plan.kept) == (1024 + 16 + 160 + 10, 1184, 237)
    assert sum(layer.kept for layer in plan.layers) == 237
    if method == "ntt":
        assert plan.seconds_per_step is not None
        assert plan.estimated_seconds is not None
        assert plan.estimated_seconds > plan.seconds_per_step * 999 > 0
        assert plan.peak_memory_bytes is not None
        assert plan.memory_bytes is not None
        assert plan.memory_bytes > plan.peak_memory_bytes > 2**20
        assert plan.advice is None
    else:
        assert (plan.steps, plan.estimated_seconds, plan.peak_memory_bytes) == (0, None, None)


def test_a_plan_has_the_counts_of_the_run() -> None:
    options: dict[str, Any] = {"allocation": "erk", "sparsity": 0.7}
    assert [layer.kept for layer in prune.plan(config(**options), lambda _: None).layers] == [
        layer.kept for layer in run(**options).layers
    ]


def test_labels_play_no_part() -> None:
    x = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32)
    outputs: list[dict[str, Tensor]] = []
    for i, labels in enumerate((np.arange(20) % 10, np.full(20, 99), None)):
        np.savez("data.npz", **({"x": x} if labels is None else {"x": x, "y": labels}))
        run(data="data.npz", output=f"{i}.safetensors")
        outputs.append(load_file(f"{i}.safetensors"))
    for other in outputs[1:]:
        assert all(torch.equal(value, outputs[0][name]) for name, value in other.items())


@pytest.mark.parametrize("what", ["measure_agreement", "measure_kernel_distance", "compare_kernels"])
def test_what_cannot_be_measured_is_left_out(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The checkpoint is there before anything is measured."""
    whole = run()
    first = digest()

    def fails(*_: Any, **__: Any) -> None:
        assert digest() == first
        raise RuntimeError("view size is not compatible\nwith much more")

    monkeypatch.setattr(prune_measures, what, fails)
    Path(OUT).unlink()
    events: list[Event] = []
    report = prune.run(config(force=True), events.append)
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert warning.endswith(": not measured, RuntimeError: view size is not compatible")
    assert read_header(Path(report.report)).record.summary == report.model_dump(mode="json")
    found = (report.agreement is not None, report.agreement and report.agreement.kernel_distance, report.kernels)
    missing = ["measure_agreement", "measure_kernel_distance", "compare_kernels"].index(what)
    assert found[missing] is (False if missing == 0 else None)
    assert whole.kernels is not None


def test_a_run_killed_while_it_measures_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    whole, report = digest(), digest("sparse.report.safetensors")
    for path in (OUT, "sparse.report.safetensors"):
        Path(path).unlink()

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prune_measures, "measure_agreement", killed)
        with pytest.raises(Killed):
            run()
    assert digest() == whole
    assert not Path("sparse.report.safetensors").exists()
    run(resume=True)
    assert (digest(), digest("sparse.report.safetensors")) == (whole, report)


def test_kernels_are_looked_at_where_they_were_matched_or_asked_for() -> None:
    assert run(kernel_weight=0).kernels is None
    asked = run(kernel_weight=0, kernels=True, force=True)
    assert asked.kernels is not None
    assert asked.agreement.kernel_distance is not None
    assert run(method="magnitude", force=True).kernels is None
    assert run(method="magnitude", kernels=True, force=True).kernels is not None
    error = refusal(UsageError, "tokens", method="magnitude", kernels=True, limit=None, force=True)
    assert str(error) == "--kernels: method magnitude needs no data to read it, and none is named"


def test_a_run_leaves_no_network_to_the_collector() -> None:
    """A cycle of references would hold its memory, and files that it has open, until somebody collects."""
    run()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        run(force=True)
        gc.collect()
        left = [type(item).__name__ for item in gc.garbage if isinstance(item, nn.Module)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left

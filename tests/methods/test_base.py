from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from ntt_cli.config import ModelOptions, PruneConfig, method_class, method_names
from ntt_cli.errors import DataError, DivergedError, UsageError
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.methods import base
from ntt_cli.methods.base import Method, MethodContext
from ntt_cli.methods.ntt_shuffled import shuffled
from ntt_cli.networks.loading.models import load_model
from ntt_cli.pruning import prune
from ntt_cli.pruning.job import prepare
from ntt_cli.results import PruneReport
from ntt_cli.tensors import Masks
from tests.parts import nothing_of, read_of
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder", "few_rounds")
METHODS = {name: method_class(name) for name in method_names()}
every_method = pytest.mark.parametrize("method", METHODS)
SIZES = {"fc1.weight": 1024, "fc2.weight": 160}


def config(name: str = "plain", **values: Any) -> PruneConfig:
    options: dict[str, Any] = {"sparsity": 0.8, "steps": 4, "limit": 64, "batch_size": 16, "device": "cpu"}
    return PruneConfig(model=write_network(name), **read_of(options, values))


def run(name: str = "plain", **values: Any) -> PruneReport:
    return prune.run(config(name, **values), lambda _: None)


def masks_of(path: str = "sparse.safetensors") -> dict[str, Tensor]:
    return read_checkpoint(Path(path)).masks


def network(seed: int = 0) -> nn.Module:
    return load_model(ModelOptions(model=write_network("plain")), seed=seed).module


def test_every_file_beside_the_base_is_a_method() -> None:
    folder = Path(base.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py")} - {"base", "layerwise"} | {"ntt"}
    assert set(METHODS) == files
    assert {kind.name for kind in METHODS.values()} == files
    assert next(iter(METHODS)) == "ntt"


@every_method
@pytest.mark.parametrize("name", ["plain", "convolutional"])
def test_counts_are_exact_and_runs_repeat(name: str, method: str) -> None:
    report = run(name, method=method)
    assert report.kept == round(0.2 * report.prunable)
    steps = 1 + 8 * 4 if method == "imp" else 4  # a step before eight rounds
    assert (report.method, report.steps) == (method, steps if "steps" in METHODS[method].reads else 0)
    first = Path(report.output).read_bytes()
    assert Path(run(name, method=method, output="b.safetensors").output).read_bytes() == first


@every_method
def test_labels_are_seen_by_those_that_declare_it_alone(method: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 10
    masks = []
    for name, y in (("right", labels), ("wrong", labels[::-1])):
        np.savez(f"{name}.npz", x=x, y=y)
        run(method=method, data=f"{name}.npz", output=f"{name}.safetensors")
        masks.append(masks_of(f"{name}.safetensors"))
    same = all(torch.equal(masks[0][name], masks[1][name]) for name in SIZES)
    assert same == (METHODS[method].needs != "labels")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.needs == "labels"])
def test_unlabelled_data_for_a_labelled_method(method: str) -> None:
    np.save("x.npy", np.zeros((40, 8, 8), dtype=np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None])
    with pytest.raises(DataError) as caught:
        run(method=method, data="x.npy")
    assert f"has no labels; --method {method} needs them" in str(caught.value)
    np.savez("y.npz", x=np.load("x.npy"), y=np.full(40, 10))
    with pytest.raises(DataError, match="label 10 of sample 0 is out of range"):
        run(method=method, data="y.npz")
    assert not Path("sparse.safetensors").exists()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.needs in {"shape", "nothing"}])
def test_methods_without_data(method: str) -> None:
    source = Path(write_network("plain")).read_text().replace('DATA = "digits"', "INPUT_SHAPE = (1, 8, 8)")
    Path("bare.py").write_text(source)
    report = prune.run(PruneConfig(model="bare.py", sparsity=0.8, method=method, device="cpu"), lambda _: None)
    assert (report.data, report.kept) == (None, 237)


def test_synflow_sees_no_more_than_the_shape() -> None:
    run(method="synflow", seed=3)
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8))
    run(method="synflow", seed=3, data="x.npy", limit=None, output="b.safetensors")
    assert all(torch.equal(masks_of()[name], masks_of("b.safetensors")[name]) for name in SIZES)


def test_synflow_needs_a_shape() -> None:
    source = Path(write_network("plain")).read_text().replace('DATA = "digits"\n', "")
    Path("bare.py").write_text(source)
    with pytest.raises(DataError, match="none is named"):
        prune.run(PruneConfig(model="bare.py", sparsity=0.8, method="synflow", device="cpu"), lambda _: None)


@pytest.mark.parametrize("mask", get_args(PruneConfig.model_fields["mask"].annotation)[1:])
def test_a_mask_of_another_method_is_held_and_weights_are_moved(mask: str) -> None:
    chosen = run("convolutional", method=mask)
    held = run("convolutional", mask=mask, steps=10, output="held.safetensors")
    alone, moved = load_file("sparse.safetensors"), load_file("held.safetensors")
    for name, own in masks_of().items():
        assert torch.equal(masks_of("held.safetensors")[name], own)
        assert not torch.equal(moved[name], alone[name])
    assert (held.steps, held.kept) == (10, chosen.kept)
    assert held.agreement is not None
    assert chosen.agreement is not None
    assert held.agreement.logit_distance < chosen.agreement.logit_distance
    history = load_file(held.report)
    assert history["history.mask_update_step"].tolist() == [0]
    assert history["history.density"].tolist() == pytest.approx([0.2])
    planned = prune.plan(config("convolutional", mask=mask), lambda _: None)
    assert [layer.kept for layer in planned.layers] == [layer.kept for layer in chosen.layers]


def test_only_ntt_takes_the_mask_of_another() -> None:
    with pytest.raises(ValidationError, match="method snip does not read it"):
        config(method="snip", mask="synflow")


def test_rescaled_weights_make_up_for_those_removed() -> None:
    run(method="random", seed=5)
    run(method="random-rescaled", seed=5, output="b.safetensors")
    plain, rescaled, masks = load_file("sparse.safetensors"), load_file("b.safetensors"), masks_of()
    for name, mask in masks.items():
        assert torch.equal(mask, masks_of("b.safetensors")[name])
        factor = (mask.numel() / int(mask.sum())) ** 0.5
        torch.testing.assert_close(rescaled[name], plain[name] * factor)
    assert torch.equal(plain["fc1.bias"], rescaled["fc1.bias"])


def test_a_mask_on_fresh_weights() -> None:
    run()
    run(method="ntt-fresh", output="b.safetensors")
    ours, fresh, teacher = load_file("sparse.safetensors"), load_file("b.safetensors"), network()
    for name, mask in masks_of().items():
        assert torch.equal(masks_of("b.safetensors")[name], mask)
        assert not torch.isin(fresh[name][mask], torch.cat([ours[name], teacher.get_parameter(name)])).any()


def test_a_shuffled_mask_on_the_teachers_weights() -> None:
    run()
    run(method="ntt-shuffled", output="b.safetensors")
    teacher = network()
    for name, mask in masks_of().items():
        other = masks_of("b.safetensors")[name]
        assert int(other.sum()) == int(mask.sum())
        assert not torch.equal(other, mask)
        assert torch.equal(load_file("b.safetensors")[name], torch.where(other, teacher.get_parameter(name), 0.0))


def test_shuffling_is_by_layer_and_by_the_generator() -> None:
    masks = {"a": torch.arange(100).view(10, 10) < 30, "b": torch.ones(3, 3, dtype=torch.bool)}
    results = [shuffled(masks, slices={}, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert [int(result["a"].sum()) for result in results] == [30, 30, 30]
    assert torch.equal(results[0]["a"], results[1]["a"])
    assert not torch.equal(results[0]["a"], results[2]["a"])
    assert torch.equal(results[0]["b"], masks["b"])


@every_method
def test_densities_by_hand(method: str) -> None:
    report = run(method=method, layer_density=("*=0.9", "fc2*=0.5"), sparsity=0.155)
    assert [layer.kept for layer in report.layers] == [round(0.9 * 1024), 80]
    report = run(method=method, layer_density=("fc2*=0.5",), force=True)
    assert [layer.kept for layer in report.layers] == [237 - 80, 80]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("fc1", "is not PATTERN=DENSITY"),
        ("fc1.weight=2", "is not PATTERN=DENSITY"),
        ("fc1.weight=0", "is not PATTERN=DENSITY"),
        ("=0.5", "is not PATTERN=DENSITY"),
        ("fc1.weight=nan", "is not PATTERN=DENSITY"),
        ("fc9.*=0.5", "matches no prunable weight"),
    ],
)
def test_densities_by_hand_that_cannot_be_read(given: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(layer_density=(given,))
    assert caught.value.where == f"--layer-density {given}"
    assert words in str(caught.value)


def test_densities_by_hand_that_do_not_fit() -> None:
    with pytest.raises(UsageError) as caught:
        run(layer_density=("fc1*=0.9",))
    assert caught.value.where == "--sparsity 0.8 with --layer-density"
    assert "leave -685 weights to keep, of 160 in 1 others" in str(caught.value)


def test_scores_that_are_not_finite() -> None:
    task = prepare(config(method="snip"), lambda _: None)

    class Broken(Method):
        def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
            return {"fc1.weight": torch.tensor([torch.nan])}

    with pytest.raises(DivergedError, match="fc1.weight: has scores that are not finite"):
        Broken().masks(task.context(nothing_of(task)))

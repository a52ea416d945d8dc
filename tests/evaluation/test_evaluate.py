from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ntt_cli.config import EvaluateConfig, ModelOptions, PruneConfig
from ntt_cli.errors import CheckpointError, DataError, NttError
from ntt_cli.evaluation import evaluate
from ntt_cli.networks.loading.models import load_model
from ntt_cli.pruning import prune
from ntt_cli.results import EvaluateReport
from ntt_cli.runtime.events import Evaluated, Event, Noted, Warned
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")


def run(name: str = "plain", **values: Any) -> EvaluateReport:
    options = {"checkpoint": "x.safetensors", "device": "cpu", "batch_size": 100}
    return evaluate.run(EvaluateConfig(model=write_network(name), **(options | values)), lambda _: None)


def refusal(error: type[NttError], name: str = "plain", **values: Any) -> NttError:
    with pytest.raises(error) as caught:
        run(name, **values)
    assert caught.value.exit_code == 2
    return caught.value


def network(name: str = "plain", *, seed: int = 0) -> nn.Module:
    return load_model(ModelOptions(model=write_network(name)), seed=seed).module.eval()


def dense(name: str = "plain", *, seed: int = 0, path: str = "x.safetensors") -> str:
    save_file({key: value.clone() for key, value in network(name, seed=seed).state_dict().items()}, path)
    return path


def digits() -> tuple[Tensor, Tensor]:
    """The test split as plain tensors: weights from elsewhere see it as it is."""
    with np.load(Path(evaluate.__file__).parent.parent / "resources" / "digits.npz") as archive:
        x = torch.from_numpy(np.rint(archive["x_test"] * (255 / 16)) / 255).float().view(-1, 1, 8, 8)
        return x, torch.from_numpy(archive["y_test"]).long()


def test_accuracy() -> None:
    dense()
    report = run()
    x, y = digits()
    with torch.no_grad():
        logits = network()(x)
    hits = logits.argmax(1) == y
    rank = (logits > logits.gather(1, y[:, None])).sum(1)
    assert report.accuracy is not None
    assert report.accuracy == pytest.approx(float(hits.double().mean()), abs=0.003)
    assert report.top5 == pytest.approx(float((rank < 5).double().mean()), abs=0.003)
    assert report.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-4)
    assert report.accuracy_by_class is not None
    for digit, accuracy in report.accuracy_by_class.items():
        assert accuracy == pytest.approx(float(hits[y == int(digit)].double().mean()), abs=0.03)
    assert list(report.accuracy_by_class) == list("0123456789")
    assert (report.samples, report.data, report.agreement, report.passed) == (359, "digits", None, None)


def test_batches_do_not_matter() -> None:
    dense("convolutional")
    one, other = run("convolutional", batch_size=7), run("convolutional", batch_size=1000)
    assert one.accuracy == other.accuracy is not None
    assert one.loss == pytest.approx(other.loss)


def test_five_classes_or_fewer_have_no_top_5() -> None:
    np.savez("tokens.npz", x=np.zeros((4, 3), np.int64), y=np.array([0, 0, 1, 1]))
    dense("tokens")
    report = run("tokens", data="tokens.npz")
    assert report.top5 is None
    assert report.accuracy_by_class is not None
    assert report.accuracy_by_class["2"] is None


def test_costs() -> None:
    report = run(checkpoint=dense(), limit=2)
    assert (report.prunable, report.kept, report.density) == (0, 0, None)
    assert (report.flops_dense, report.flops_sparse) == (2 * 1184, 2 * 1184)
    assert report.parameters == 1184 + 26
    assert report.sparse_bytes == 4 * report.parameters
    assert report.file_bytes == Path("x.safetensors").stat().st_size

    prune.run(PruneConfig(model="plain.py", sparsity=0.9, method="random", limit=4), lambda _: None)
    report = run(checkpoint="sparse.safetensors", limit=2)
    tensors = load_file("sparse.safetensors")
    assert (report.prunable, report.kept) == (1184, 118)
    assert report.density == 118 / 1184
    assert report.nonzero_parameters == sum(int(value.count_nonzero()) for value in tensors.values())
    assert (report.flops_dense, report.flops_sparse) == (2 * 1184, 2 * 118)
    assert report.sparse_bytes == 4 * (118 + 26) + 1024 // 8 + 160 // 8


@pytest.mark.parametrize(("gate", "passed"), [(0.0, True), (1.0, False), (None, None)])
def test_a_gate(gate: float | None, passed: bool | None) -> None:
    dense()
    report = run(min_accuracy=gate)
    assert (report.min_accuracy, report.passed) == (gate, passed)


def test_exactly_at_the_gate() -> None:
    dense()
    accuracy = run().accuracy
    assert accuracy is not None
    assert run(min_accuracy=accuracy).passed is True


def test_a_network_agrees_with_itself() -> None:
    dense()
    agreement = run(teacher="x.safetensors", kernels=True).agreement
    assert agreement is not None
    assert agreement.model_dump(exclude={"heads"}) == {
        "logit_distance": 0,
        "kernel_distance": 0,
        "top1_agreement": 1,
        "cosine": 1,
        "relative_error": 0,
    }


def test_agreement_needs_no_labels() -> None:
    x = np.random.default_rng(0).normal(size=(30, 64)).astype(np.float32)
    np.save("x.npy", x)
    dense()
    dense(seed=1, path="teacher.safetensors")
    report = run(data="x.npy", teacher="teacher.safetensors", mean="0", std="1", kernels=True)
    assert (report.accuracy, report.data) == (None, "x.npy")
    with torch.no_grad():
        ours, theirs = network()(torch.from_numpy(x)), network(seed=1)(torch.from_numpy(x))
    assert report.agreement is not None
    distance = float((ours - theirs).square().sum() / theirs.square().sum())
    assert report.agreement.logit_distance == pytest.approx(distance, rel=1e-5)
    assert report.agreement.top1_agreement == float((ours.argmax(1) == theirs.argmax(1)).double().mean())
    assert report.agreement.kernel_distance > 0.01


def test_neither_labels_nor_a_teacher() -> None:
    np.save("x.npy", np.zeros((3, 64), np.float32))
    dense()
    error = refusal(DataError, data="x.npy")
    assert "has no labels, and there is no teacher to compare with" in str(error)
    assert "--teacher" in error.hint


@pytest.mark.parametrize("teacher", [None, "x.safetensors"])
def test_a_gate_without_labels(teacher: str | None) -> None:
    np.save("x.npy", np.zeros((3, 64), np.float32))
    dense()
    assert "has no labels; accuracy" in str(refusal(DataError, data="x.npy", min_accuracy=0.5, teacher=teacher))


def test_a_kernel_takes_two_samples() -> None:
    dense()
    assert run(limit=1).samples == 1
    assert run(limit=1, teacher="x.safetensors").agreement is not None
    error = refusal(DataError, limit=1, teacher="x.safetensors", kernels=True)
    assert "has 1 samples, 2 are needed" in str(error)
    assert run(limit=2, teacher="x.safetensors", kernels=True).agreement is not None


def test_a_network_without_a_kernel() -> None:
    dense("one derivative")
    agreement = run("one derivative", teacher="x.safetensors", kernels=True).agreement
    assert agreement is not None
    assert (agreement.kernel_distance, agreement.logit_distance, agreement.top1_agreement) == (None, 0, 1)


def test_splits() -> None:
    dense()
    assert (run().samples, run(split="train").samples, run(split="train", limit=9).samples) == (359, 1438, 9)


def test_the_checkpoints_standardisation_is_used() -> None:
    write_network("plain")
    options: dict[str, Any] = {"model": "plain.py", "sparsity": 0, "limit": 4, "data": "digits"}
    prune.run(PruneConfig(**options, mean="0.1", std="3", output="x.safetensors"), lambda _: None)
    by_record = run().accuracy
    dense()
    layer_density, by_itself = run(mean="0.1", std="3").accuracy, run().accuracy
    assert by_record == layer_density != by_itself


def test_labels_out_of_range() -> None:
    np.savez("data.npz", x=np.zeros((3, 64), np.float32), y=np.array([0, 10, 3]))
    dense()
    assert "label 10 of sample 1 is out of range" in str(refusal(DataError, data="data.npz"))


def test_teachers_that_do_not_fit() -> None:
    dense()
    dense("tied", path="teacher.safetensors")
    assert "extra first.weight" in str(refusal(CheckpointError, teacher="teacher.safetensors"))
    assert "does not exist" in str(refusal(CheckpointError, teacher="missing.safetensors"))


def test_what_is_told() -> None:
    dense("partly frozen")
    events: list[Event] = []
    write_network("partly frozen")
    evaluate.run(
        EvaluateConfig(
            model="partly_frozen.py", checkpoint="x.safetensors", teacher="x.safetensors", batch_size=300, device="cpu"
        ),
        events.append,
    )
    told = [event for event in events if not isinstance(event, Noted)]  # of the weights and the data
    assert isinstance(told[0], Warned)
    assert told[1:] == [Evaluated(300, 359), Evaluated(359, 359)]

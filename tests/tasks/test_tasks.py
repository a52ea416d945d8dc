"""Fine-tuning and evaluation for each task, against a plain PyTorch loop and metrics by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ntt_cli as ntt
from ntt_cli.runtime.events import Evaluated, Warned

G = torch.Generator().manual_seed(0)
X = torch.randn(48, 6, generator=G)
IMAGES = torch.rand(48, 3, 4, 5, generator=G)
TOKENS = torch.randint(0, 7, (48, 5), generator=G)
ZEROS_AND_ONES = (X[:, :3] > 0).long()
PIXELS = (IMAGES.mean(1) * 3.999).long()
PIXELS[:, 0] = -100


def shifted(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


def binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets.view_as(outputs).float())


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets.view_as(outputs))


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor, Callable[[Tensor, Tensor], Tensor], str]] = {
    "binary": (lambda: nn.Linear(6, 1), X, ZEROS_AND_ONES[:, 0], binary, "binary"),
    "multi-label": (lambda: nn.Linear(6, 3), X, ZEROS_AND_ONES, binary, "multi-label"),
    "multi-label, floats": (lambda: nn.Linear(6, 3), X, ZEROS_AND_ONES.float(), binary, "multi-label"),
    "regression": (lambda: nn.Linear(6, 1), X, X.sum(1), squared, "regression"),
    "several numbers": (lambda: nn.Linear(6, 2), X, X[:, :2] * 2, squared, "regression"),
    "autoencoder": (lambda: nn.Conv2d(3, 3, 1), IMAGES, IMAGES, squared, "regression"),
    "pixels": (lambda: nn.Conv2d(3, 4, 1), IMAGES, PIXELS, F.cross_entropy, "pixel-classification"),
    "next token": (
        lambda: nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7)), TOKENS, TOKENS, shifted, "language-modelling"
    ),
    "classes": (lambda: nn.Linear(6, 3), X, X[:, :3].argmax(1), F.cross_entropy, "classification"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_is_a_plain_loop(kind: str) -> None:
    make, x, y, loss, name = KINDS[kind]
    torch.manual_seed(1)
    module = make()
    options: dict[str, Any] = {"epochs": 3, "batch_size": 48, "validation": 0, "warmup": 0, "device": "cpu"}
    tuned = ntt.finetune(module, (x, y), learning_rate=0.1, rate_schedule="constant", **options)
    assert tuned.report.task == name
    optimiser, losses = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0), []
    for _ in range(3):
        optimiser.zero_grad()
        value = loss(module(x), y)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(value.item())
    assert [epoch.train_loss for epoch in tuned.report.epochs] == pytest.approx(losses, rel=1e-4)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(tuned.model.state_dict()[key], value, rtol=2e-3, atol=2e-4)
    report = ntt.evaluate(tuned, (x, y))
    with torch.no_grad():
        assert report.metrics["loss"] == pytest.approx(float(loss(tuned.model.eval()(x), y)), rel=1e-4)
    assert (report.accuracy is not None) == (name in {"classification", "binary"})


def test_metrics_by_hand() -> None:
    with torch.no_grad():
        line = nn.Linear(6, 2)
        outputs, y = line(X), X[:, :2]
        found = ntt.evaluate(line, (X, y), batch_size=10).metrics
        errors = (outputs - y).double()
        spread = (y - y.mean(0)).double().square().sum(0)
        assert found["mse"] == pytest.approx(float(errors.square().mean()), rel=1e-5)
        assert found["mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-5)
        assert found["r2"] == pytest.approx(float((1 - errors.square().sum(0) / spread).mean()), rel=1e-5)

        labels = nn.Linear(6, 3)
        chosen, true = (labels(X) > 0).long(), ZEROS_AND_ONES
        found = ntt.evaluate(labels, (X, true), batch_size=10).metrics
        hits, some = (chosen & true).sum(0), (chosen + true).sum(0)
        assert found["exact_match"] == pytest.approx(float((chosen == true).all(1).double().mean()))
        assert found["f1_micro"] == pytest.approx(float(2 * hits.sum() / some.sum()))
        assert found["f1_macro"] == pytest.approx(float((2 * hits / some).mean()))

        maps = nn.Conv2d(3, 4, 1)
        chosen = maps(IMAGES).argmax(1)
        counted = PIXELS >= 0
        found = ntt.evaluate(maps, (IMAGES, PIXELS), batch_size=10).metrics
        assert found["pixel_accuracy"] == pytest.approx(float((chosen == PIXELS)[counted].double().mean()))
        ratios = []
        for c in range(4):
            ours, theirs = (chosen == c) & counted, PIXELS == c
            if (ours | theirs).any():
                ratios.append(float((ours & theirs).sum() / (ours | theirs).sum()))
        assert found["mean_iou"] == pytest.approx(sum(ratios) / len(ratios))


@pytest.mark.parametrize(
    ("module", "x", "y", "what", "hint"),
    [
        (nn.Conv2d(3, 3, 1), IMAGES, (IMAGES > 0.5).float(), "for multi-label or for regression", "--task|task"),
        (nn.Linear(6, 1), X, torch.arange(48), "class numbers, or amounts", "regression"),
        (nn.Linear(6, 3), X, F.one_hot(torch.arange(48) % 3), "a single 1 in each row", "argmax"),
        (nn.Linear(6, 3), X, X[:, :2], "for outputs of shape", "astype"),
    ],
)
def test_what_may_be_several_tasks_or_none_names_them(
    module: nn.Module, x: Tensor, y: Tensor, what: str, hint: str
) -> None:
    with pytest.raises(ntt.NttError, match=what) as caught:
        ntt.finetune(module, (x, y), epochs=1)
    assert any(word in caught.value.hint for word in hint.split("|"))


def test_whole_numbers_as_amounts() -> None:
    tuned = ntt.finetune(nn.Linear(6, 1), (X, torch.arange(48)), epochs=1, task="regression")
    assert (tuned.report.metric, tuned.report.higher_is_better) == ("mse", False)
    assert tuned.report.value is not None


MODEL = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)
    def forward(self, x):
        return {"logits": self.layer(x), "size": x.norm(dim=1)}

def build_model():
    return Two()

def loss(outputs, targets):
    return (outputs["logits"][:, 0] - targets).abs().mean() + 0 * outputs["size"].mean()
"""


def test_own_functions_of_the_model_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = "\ndef metrics(outputs, targets):\n    return {'bias': (outputs['logits'][:, 0] - targets).mean()}\n"
    (tmp_path / "model.py").write_text(MODEL + metrics)
    tuned = ntt.finetune("model.py", (X, X.sum(1)), epochs=2)
    assert (tuned.report.task, tuned.report.metric) == ("own", "loss")
    (tmp_path / "model.py").write_text(MODEL.replace("TRAINED", "") + metrics)
    tuned.save("tuned.safetensors")
    report = ntt.evaluate("model.py", (X, X.sum(1)), checkpoint="tuned.safetensors", batch_size=10)
    weight, bias = tuned.checkpoint.tensors["layer.weight"], tuned.checkpoint.tensors["layer.bias"]
    errors = X @ weight[0] + bias[0] - X.sum(1)
    assert report.metrics == {
        "loss": pytest.approx(float(errors.abs().mean()), rel=1e-4),
        "bias": pytest.approx(float(errors.mean()), rel=1e-3, abs=1e-5),
    }
    (tmp_path / "model.py").write_text(MODEL.replace(".abs().mean()", ".abs()"))
    with pytest.raises(ntt.NttError, match=r"loss\(outputs, targets\) returns a tensor of shape") as caught:
        ntt.finetune("model.py", (X, X.sum(1)), epochs=1)
    assert "mean loss" in caught.value.hint


def test_a_task_of_ones_own() -> None:
    class Absolute(ntt.Task):
        headline = "near"
        higher_is_better = True

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs[:, 0] - targets).abs().mean()

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
            return {"near": ((outputs[:, 0] - targets).abs() < 1).double().mean()}

    tuned = ntt.finetune(nn.Linear(6, 1), (X, X.sum(1)), epochs=3, task=Absolute())
    assert (tuned.report.task, tuned.report.metric) == ("own", "near")
    assert tuned.report.value == max(epoch.value for epoch in tuned.report.epochs if epoch.value is not None)
    assert ntt.evaluate(tuned, (X, X.sum(1)), task=Absolute()).metric == "near"


@pytest.mark.parametrize("weights", ["2,1,0.5", "balanced", None])
def test_label_smoothing_and_class_weights_are_those_of_torch(weights: str | None) -> None:
    y = torch.tensor([0] * 30 + [1] * 12 + [2] * 6)
    module, options = nn.Linear(6, 3), {"epochs": 1, "batch_size": 48, "validation": 0, "warmup": 0}
    tuned = ntt.finetune(module, (X, y), label_smoothing=0.1, class_weights=weights, **options)
    numbers = {"2,1,0.5": [2, 1, 0.5], "balanced": [16 / 30, 16 / 12, 16 / 6]}
    weight = torch.tensor(numbers[weights]) if weights else None
    expected = F.cross_entropy(module(X), y, weight, label_smoothing=0.1)
    assert tuned.report.epochs[0].train_loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_what_only_classification_reads(options: dict[str, Any]) -> None:
    with pytest.raises(ntt.NttError, match="the task regression does not read it"):
        ntt.finetune(nn.Linear(6, 1), (X, X.sum(1)), epochs=1, **options)
    with pytest.raises(ntt.NttError, match="is not one number for each of 3 classes"):
        ntt.finetune(nn.Linear(6, 3), (X, X[:, :3].argmax(1)), epochs=1, class_weights="1,2")


def test_gates() -> None:
    network, data = nn.Linear(6, 1), (X, X.sum(1))
    mse = ntt.evaluate(network, data).metrics["mse"]
    assert ntt.evaluate(network, data).passed is None
    assert ntt.evaluate(network, data, max=f"mse={mse + 1}", min=f"mse={mse - 1}").passed is True
    report = ntt.evaluate(network, data, max=f"mse={mse - 1e-3}")
    assert (report.passed, len(report.missed)) == (False, 1)
    with pytest.raises(ntt.NttError, match="rmse is not measured here") as caught:
        ntt.evaluate(network, data, max="rmse=1")
    assert caught.value.hint == "did you mean mse?"
    with pytest.raises(ntt.NttError, match="is not METRIC=VALUE"):
        ntt.evaluate(network, data, max="mse")


def test_pixels_as_targets_are_told_to_be_amounts() -> None:
    images = torch.randint(256, (20, 1, 3, 3), generator=torch.Generator().manual_seed(0)).byte()
    network = nn.Conv2d(1, 1, 1)
    report = ntt.evaluate(network, (images, images), task="regression", mean=0, std=1)
    with torch.no_grad():
        expected = F.mse_loss(network(images / 255), images.float())
    assert report.metrics["mse"] == pytest.approx(float(expected), rel=1e-5)
    heard: list[object] = []
    ntt.evaluate(network, (images, images), task="regression", progress=heard.append)
    ntt.evaluate(network, (images, images / 255), task="regression", progress=heard.append)
    told = [event.message for event in heard if isinstance(event, Warned) and "amounts of 0 to 255" in event.message]
    assert len(told) == 1
    assert told[0].endswith("store targets as floats in [0, 1] if they are meant to be the same")


def test_an_unknown_gate_is_named_before_the_evaluation() -> None:
    network, events = nn.Linear(6, 1), list[object]()
    with pytest.raises(ntt.NttError, match="r3 is not measured here"):
        ntt.evaluate(network, (X, X.sum(1)), min="r3=0.5", progress=events.append)
    assert not any(isinstance(event, Evaluated) for event in events)
    targets = torch.cat([torch.zeros(16), X[16:].sum(1)])  # the first samples do not define R²
    assert ntt.evaluate(network, (X, targets), min="r2=-1e9").passed is True


def test_labels_of_several_kinds_are_no_choice() -> None:
    student, teacher, labels = nn.Linear(6, 3), nn.Linear(6, 3), (X[:, :3] > 0).float()
    with_labels = ntt.evaluate(student, (X, labels), teacher=teacher, task="multi-label").agreement
    without = ntt.evaluate(student, X, teacher=teacher).agreement
    assert with_labels is not None
    assert without is not None
    assert (with_labels.top1_agreement is None, without.top1_agreement is None) == (True, False)
    assert with_labels.logit_distance == without.logit_distance


def test_closeness_to_a_teacher_by_hand() -> None:
    student, teacher = nn.Linear(6, 3), nn.Linear(6, 3)
    report = ntt.evaluate(student, X, teacher=teacher, batch_size=10, min=["cosine=-1", "top1_agreement=0"])
    with torch.no_grad():
        ours, theirs = student(X), teacher(X)
    assert report.passed is True
    assert report.metrics["cosine"] == pytest.approx(float(F.cosine_similarity(ours, theirs).mean()), abs=1e-5)
    assert report.metrics["relative_error"] == pytest.approx(float((ours - theirs).norm() / theirs.norm()), rel=1e-5)


def test_a_comparison_of_regressions(tmp_path: Any) -> None:
    options: dict[str, Any] = {"methods": ("magnitude", "random"), "sparsities": 0.5, "seeds": 1, "epochs": 1}
    data = X, X.sum(1)
    report = ntt.compare(nn.Linear(6, 1), data, test_data=data, output=tmp_path / "c", **options)
    assert not report.failed
    best = min(report.results, key=lambda result: result.metrics["mse"])
    assert [row.method for row in report.rows if row.best] == [best.method]
    assert (report.rows[0].metric, report.results[0].accuracy) == ("mse", None)
    assert "Test mse, mean" in (tmp_path / "c" / "report.html").read_text()

"""Outputs that do not count: as if each sequence had gone through the network by itself, without padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.errors import ModelError
from ntt_cli.kernels.product import OutputsAndProduct, compute_outputs, outputs_and_pullback
from ntt_cli.methods.ntt.objective import Objective, outputs_gradient
from ntt_cli.networks.functional import FunctionalModel, functional_model
from ntt_cli.networks.output_mask import mask_from
from ntt_cli.networks.outputs import Heads
from ntt_cli.tasks.classification import CLASSIFICATION, PixelClassification
from ntt_cli.tasks.regression import Regression

LENGTHS = [4, 2, 3, 1]


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.outer(self.inner(x).tanh())


def count(batch: Any) -> Tensor:
    return torch.arange(batch["x"].shape[1]) < batch["lengths"][:, None]


def tagger(seed: int) -> FunctionalModel:
    torch.manual_seed(seed)
    model = functional_model(Tagger().double())
    return replace(model, select_outputs=Heads(lambda outputs: outputs, {"output": (4, 2)}), output_mask=count)


def padded() -> dict[str, Tensor]:
    x = torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"x": x, "lengths": torch.tensor(LENGTHS)}


def part(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def alone(model: FunctionalModel, params: dict[str, Tensor]) -> list[Tensor]:
    """The outputs of each sequence by itself, without padding."""
    x = padded()["x"]
    return [torch.func.functional_call(model.module, params, (x[i : i + 1, :n], None)) for i, n in enumerate(LENGTHS)]


@pytest.mark.parametrize("name", ["relative", "paper"])
def test_distances_and_gradients_are_those_of_unpadded_sequences(name: Any) -> None:
    teacher, student = tagger(0), tagger(1)
    x1, x2 = part(padded(), slice(0, 2)), part(padded(), slice(2, 4))
    objective = Objective(name, 0.0, 0.0).on(teacher, x1, x2)
    theirs = compute_outputs(teacher.bind(), teacher.params, x1, x2, None)
    ours, pullback = outputs_and_pullback(student.bind(), student.params, x1, x2, None)
    loss, gradient = outputs_gradient(objective, ours, theirs, torch.zeros(()))
    found = pullback(gradient)
    params = {key: p.clone().requires_grad_() for key, p in student.params.items()}
    gaps = [a - b for a, b in zip(alone(student, params), alone(teacher, teacher.params), strict=True)]
    square = torch.stack([gap.square().sum() for gap in gaps]).sum()
    norm = sum(float(b.square().sum()) for b in alone(teacher, teacher.params))
    want = square / (norm if name == "relative" else 2 * sum(LENGTHS))
    torch.testing.assert_close(loss.logit_distance, want.detach())
    want.backward()
    for key, p in params.items():
        torch.testing.assert_close(found[key], p.grad)


@pytest.mark.parametrize("name", ["relative", "paper"])
def test_the_kernel_term_is_that_of_unpadded_sequences(name: Any) -> None:
    teacher, student = tagger(0), tagger(1)
    x1, x2 = part(padded(), slice(0, 2)), part(padded(), slice(2, 4))
    probe = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    objective = Objective(name, 1.0, 0.0).on(teacher, x1, x2)
    ours, theirs = (compute_outputs(m.bind(), m.params, x1, x2, probe) for m in (student, teacher))
    loss, _ = outputs_gradient(objective, ours, theirs, torch.zeros(()))

    def product(model: FunctionalModel) -> Tensor:
        params = {key: p.clone().requires_grad_() for key, p in model.params.items()}
        flat = [outputs.flatten() for outputs in alone(model, params)]
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(v, list(params.values()), retain_graph=True)])
            for outputs in flat
            for v in outputs
        ]
        jacobian, first = torch.stack(rows), sum(2 * n for n in LENGTHS[:2])
        v = torch.cat([probe[i, : 2 * n] for i, n in enumerate(LENGTHS[2:])])
        return jacobian[:first] @ (jacobian[first:].T @ v)

    mine, target = product(student), product(teacher)
    columns = 2 * sum(LENGTHS[2:])
    divisor = target.square().sum() if name == "relative" else len(mine) * columns
    assert isinstance(ours, OutputsAndProduct)
    assert loss.kernel_distance is not None
    torch.testing.assert_close(loss.kernel_distance, (mine - target).square().sum() / divisor)


def test_losses_of_built_in_tasks_leave_out_what_does_not_count() -> None:
    outputs, batch = torch.randn(4, 4, 2), padded()
    rows = torch.cat([outputs[i, :n] for i, n in enumerate(LENGTHS)])
    classes = torch.randint(2, (4, 4))
    counted = torch.cat([classes[i, :n] for i, n in enumerate(LENGTHS)])
    kept, targets = CLASSIFICATION.counted(outputs, classes, batch, count)
    torch.testing.assert_close(CLASSIFICATION.loss(kept, targets), nn.functional.cross_entropy(rows, counted))
    amounts = torch.randn(4, 4, 2)
    wanted = torch.cat([amounts[i, :n] for i, n in enumerate(LENGTHS)])
    regression = Regression()
    kept, targets = regression.counted(outputs, amounts, batch, count)
    torch.testing.assert_close(regression.loss(kept, targets), nn.functional.mse_loss(rows, wanted))
    maps, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    inside = torch.rand(2, 4, 5) > 0.5
    pixels = PixelClassification()
    kept, targets = pixels.counted(maps, labels, None, lambda _: inside)
    want = nn.functional.cross_entropy(maps.movedim(1, -1)[inside], labels[inside])
    torch.testing.assert_close(pixels.loss(kept, targets), want)


def test_an_attention_mask_counts_without_a_function() -> None:
    batch = {"input_ids": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    outputs, targets = torch.randn(2, 3, 4), torch.randint(4, (2, 3))
    _, counted = CLASSIFICATION.counted(outputs, targets, batch, None)
    assert counted.tolist() == [[int(targets[0, 0]), int(targets[0, 1]), -100], [int(targets[1, 0]), -100, -100]]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (torch.ones(2, 3), "returns a tensor of type float32, not a bool tensor"),
        ([True], "returns a list, not a bool tensor"),
        (torch.ones(2, 4, dtype=torch.bool), r"returns a mask of shape \[2, 4\] for output of shape \[2, 3, 4\]"),
    ],
)
def test_a_wrong_mask_is_an_error(given: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        mask_from(lambda _: given, None, "output", torch.zeros(2, 3, 4))
    with pytest.raises(ModelError, match="raised ValueError: no"):
        mask_from(lambda _: (_ for _ in ()).throw(ValueError("no")), None, "output", torch.zeros(1, 2))


def test_a_dict_of_masks_is_by_output() -> None:
    mask = torch.tensor([True, False])
    assert mask_from(lambda _: {"a": mask}, None, "b", torch.zeros(2, 3)) is None
    assert mask_from(lambda _: {"a": mask}, None, "a", torch.zeros(2, 3)).shape == (2, 1)  # type: ignore[union-attr]


def test_padding_of_the_inputs_changes_nothing() -> None:
    torch.manual_seed(0)
    network = Tagger()
    x, lengths = torch.randn(32, 4, 2), torch.randint(1, 5, (32,))
    inside = torch.arange(4) < lengths[:, None]
    noise = torch.where(inside[..., None], x, torch.randn(32, 4, 2))
    options: dict[str, Any] = {"sparsity": 0.5, "steps": 3}
    found = [ntt.prune(network, {"x": data, "lengths": lengths}, output_mask=count, **options) for data in (x, noise)]
    assert found[0].report.agreement == found[1].report.agreement
    for name, mask in found[0].masks.items():
        assert torch.equal(mask, found[1].masks[name])
    without = ntt.prune(network, {"x": noise, "lengths": lengths}, **options)
    assert without.report.agreement != found[0].report.agreement

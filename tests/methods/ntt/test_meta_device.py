"""A step never waits for its device, and makes nothing on another one.

Tensors on torch's `meta` device have no values. A number that is read back from one is an error, and so is a tensor of
the CPU beside one. On a GPU the first would make the processor wait for the device in every step; the second fails.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import InMemory, Samples
from ntt_cli.masks.masks import as_bits
from ntt_cli.methods.ntt import score
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.objective import Objective
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student, start_student, transfer_step, under_masks
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks
from ntt_cli.training.step import LONGEST_GRADIENT, OptimiserName, SparseModule, make_optimiser, training_step

META = torch.device("meta")
PRUNABLE = ("0.weight", "4.weight", "6.weight")


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.Tanh(),
        nn.Linear(16, 3),
    ).to(META)


def transfer(*, kernel_weight: float, affinity: bool = False) -> Transfer:
    settings = TransferSettings(
        steps=10,
        auto=False,
        density=0.5,
        objective=Objective(name="relative", kernel_weight=kernel_weight, weight_penalty=1e-5),
        mask="learned",
        score="saliency",
        affinity=affinity,
        allocation="erk",
        schedule="cubic",
        batch_size=8,
        batches=None,
        learning_rate=1e-3,
        mask_update_every=5,
        micro_batch=None,
        compiled=False,
        seed=0,
        layer_density={},
    )
    inputs = Inputs(Samples("images", InMemory(torch.rand(12, 1, 4, 4))), mean_std=None, device=META)
    return Transfer(functional_model(network()), inputs, PRUNABLE, 3, settings)


def student_of(problem: Transfer) -> Student:
    by_batch = not problem.settings.objective.kernel_weight
    student = start_student(problem.teacher, PRUNABLE, learning_rate=1e-3, batch_statistics=by_batch, limited=True)
    masks = {name: torch.ones_like(student.params[name], dtype=torch.bool) for name in PRUNABLE}
    return under_masks(student, masks, density=0.5, apply=student.apply)


@pytest.mark.parametrize("keep_graph", [False, True])
@pytest.mark.parametrize("kernel_weight", [0.0, 1.0])
def test_a_step_of_the_transfer_stays_on_its_device(kernel_weight: float, keep_graph: bool) -> None:
    problem = transfer(kernel_weight=kernel_weight)
    student, batches, execution = student_of(problem), Batches(problem), Execution(keep_graph=keep_graph)
    for step in range(2):
        loss = transfer_step(student, batches.at(step, execution), problem.settings.objective, execution)
    assert loss.total.device == META


@pytest.mark.parametrize("affinity", [False, True])
def test_the_scores_of_a_mask_update_stay_on_their_device(affinity: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice that follows counts exactly, and so reads a few numbers of each layer."""

    def choose(scores: Masks, counts: dict[str, int], *, slices: dict[str, int]) -> Masks:
        return {name: value > 0 for name, value in scores.items()}

    monkeypatch.setattr(score, "choose_masks", choose)
    problem = transfer(kernel_weight=1.0, affinity=affinity)
    masks = score.update_masks(student_of(problem), problem, 0.7, MicroBatching(None, 8, lambda _: None))
    assert {name: mask.device for name, mask in masks.items()} == dict.fromkeys(PRUNABLE, META)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_step_of_fine_tuning_stays_on_its_device(optimiser: OptimiserName) -> None:
    module = network().train()
    parameters = dict(module.named_parameters())
    masks = {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in PRUNABLE}
    steps = make_optimiser(optimiser, module.parameters(), learning_rate=1e-3, weight_decay=0.01)
    for _ in range(2):
        loss = training_step(
            SparseModule(module, as_bits(masks, parameters)),
            steps,
            torch.empty(8, 1, 4, 4, device=META),
            torch.empty(8, dtype=torch.int64, device=META),
            longest=LONGEST_GRADIENT[optimiser],
        )
    assert loss.device == META


@pytest.mark.parametrize("fault", [lambda x: x * float(x.sum()), lambda x: x + torch.zeros(3)], ids=["read", "cpu"])
def test_the_device_notices_faults(fault: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(RuntimeError, match=r"meta"):
        fault(torch.empty(8, 3, device=META))

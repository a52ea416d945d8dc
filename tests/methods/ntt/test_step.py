from __future__ import annotations

import copy
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ntt_cli.kernels.product import OutputsAndProduct, compute_outputs, draw_probe, kernel_vector_product
from ntt_cli.masks.masks import as_bits
from ntt_cli.methods.ntt.objective import Objective, ObjectiveName
from ntt_cli.methods.ntt.step import (
    StepBatch,
    Student,
    limit_step,
    start_student,
    transfer_gradients,
    transfer_step,
    under_masks,
)
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Masks, Params
from tests.kernel_cases import MODEL_CASES, brute_force_kernel, random_masks, relative_error
from tests.shares import in_shares

CASES = {case.name: case for case in MODEL_CASES}
MLP = CASES["mlp"]
X1, X2 = MLP.inputs(2, seed=1), MLP.inputs(3, seed=2)
RELATIVE = Objective(name="relative", kernel_weight=1.0, weight_penalty=0.0)


def masked_student(masks: Masks, *, learning_rate: float = 1e-2, seed: int = 7) -> Student:
    model = MLP.functional(seed)
    student = start_student(model, masks, learning_rate=learning_rate)
    return under_masks(student, masks, density=0.5, apply=student.apply)


def teacher_products(x1: Tensor, x2: Tensor, probe: Tensor) -> OutputsAndProduct:
    teacher = MLP.functional()
    return kernel_vector_product(teacher.bind(), teacher.params, x1, x2, probe)


def gradient_by_brute_force(
    params: Params, masks: Masks, probe: Tensor, *, objective: Objective, active: bool
) -> Params:
    """Of `L` written out with whole Jacobians, by the entries of `m ⊙ w`; zero where they are pruned."""
    teacher, module = MLP.module(), MLP.module()
    weights = dict(module.named_parameters())
    for name, p in weights.items():
        p.data.copy_(params[name] * masks.get(name, 1))
    target = brute_force_kernel(teacher, X1, X2)
    kernel = brute_force_kernel(module, X1, X2, active=masks if active else None, create_graph=True)
    error = torch.einsum("nmcd,md->nc", kernel - target, probe).square()
    logits = torch.cat([teacher(X1), teacher(X2)]).detach()
    logit_error = (torch.cat([module(X1), module(X2)]) - logits).square()
    if objective.name == "relative":
        scale = torch.einsum("nmcd,md->nc", target, probe).square().sum()
        distances = objective.kernel_weight * error.sum() / scale + logit_error.sum() / logits.square().sum()
    else:
        distances = objective.kernel_weight * error.mean() / probe.numel() + logit_error.mean()
    penalty = sum(weights[name].square().sum() for name in masks) / 0.5
    gradients = torch.autograd.grad(distances + objective.weight_penalty * penalty, list(weights.values()))
    return {name: g * masks.get(name, 1) for name, g in zip(weights, gradients, strict=True)}


@pytest.mark.parametrize("name", ["relative", "paper"])
@pytest.mark.parametrize("active", [False, True], ids=["all", "active"])
@pytest.mark.parametrize("micro_batch", [None, 1], ids=["whole", "one by one"])
def test_steps_are_adam_on_the_loss_by_brute_force(name: ObjectiveName, active: bool, micro_batch: int | None) -> None:
    """Kingma & Ba 2015, algorithm 1, with a new probe each step."""
    objective = Objective(name=name, kernel_weight=0.7, weight_penalty=0.01)
    masks = random_masks(MLP.functional().params)
    student = masked_student(masks)
    params = {key: p.detach().clone() for key, p in student.params.items()}
    first = {key: torch.zeros_like(p) for key, p in params.items()}
    second = copy.deepcopy(first)
    generator = torch.Generator().manual_seed(0)
    for t in (1, 2, 3):
        probe = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        gradients = gradient_by_brute_force(params, masks, probe, objective=objective, active=active)
        for key, g in gradients.items():
            first[key] = 0.9 * first[key] + 0.1 * g
            second[key] = 0.999 * second[key] + 0.001 * g**2
            unbiased = first[key] / (1 - 0.9**t), second[key] / (1 - 0.999**t)
            params[key] = params[key] - 1e-2 * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        batch = StepBatch(X1, X2, probe, teacher_products(X1, X2, probe))
        transfer_step(student, batch, replace(objective, active=active), Execution(micro_batch))
        for key in params:
            torch.testing.assert_close(student.params[key].detach(), params[key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["relative", "paper"])
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "logits alone"])
@pytest.mark.parametrize("micro_batch", [None, 1], ids=["whole", "one by one"])
def test_processes_that_share_the_batch_take_the_step_of_one(
    name: ObjectiveName, kernel: bool, micro_batch: int | None
) -> None:
    objective = Objective(name=name, kernel_weight=0.7, weight_penalty=0.01)
    masks, model = random_masks(MLP.functional().params), MLP.functional()
    x1, x2 = MLP.inputs(3, seed=1), MLP.inputs(5, seed=2)
    probe = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def steps(execution: Execution) -> list[Tensor]:
        """The losses of three steps, and then the weights."""
        student, results = masked_student(masks), []
        mine = [execution.group.share(x) for x in (x1, x2)]
        own = execution.group.share(probe) if kernel else None
        for _ in range(3):
            teacher = compute_outputs(model.bind(), model.params, *mine, own, execution=execution)
            parts = replace(execution, micro_batch=micro_batch)
            loss = transfer_step(student, StepBatch(*mine, own, teacher), replace(objective, active=True), parts)
            results.append(loss.total)
        return [*results, *(p.detach() for p in student.params.values())]

    whole = steps(Execution())
    for results in in_shares(steps):
        torch.testing.assert_close(results, whole, rtol=1e-9, atol=1e-12)


def test_pruned_entries_stay_and_kept_ones_move() -> None:
    masks = random_masks(MLP.functional().params)
    student = masked_student(masks)
    before = {name: student.params[name].detach().clone() for name in masks}
    probe = torch.ones(3, 3).double()
    transfer_step(student, StepBatch(X1, X2, probe, teacher_products(X1, X2, probe)), RELATIVE)
    for name, mask in masks.items():
        moved = student.params[name].detach() != before[name]
        assert not moved[~mask].any()
        assert moved[mask].any()
        assert torch.equal(student.masked_params[name], student.params[name].detach() * mask)
        assert not student.masked_params[name].requires_grad


def test_the_kernel_of_active_entries_is_another_target() -> None:
    masks = random_masks(MLP.functional().params)
    dense = {name: torch.ones_like(mask) for name, mask in masks.items()}
    probe = torch.ones(3, 3).double()
    batch = StepBatch(X1, X2, probe, teacher_products(X1, X2, probe))

    def distance(masks: Masks, *, active: bool) -> Tensor:
        return transfer_step(masked_student(masks), batch, replace(RELATIVE, active=active)).kernel_distance

    assert (distance(masks, active=True) - distance(masks, active=False)).abs() > 1e-3
    torch.testing.assert_close(distance(dense, active=True), distance(dense, active=False))


def test_steps_bring_a_pruned_copy_of_the_teacher_back_towards_its_kernel_and_logits() -> None:
    masks = random_masks(MLP.functional().params)
    student = masked_student(masks, seed=0)
    x1, x2 = MLP.inputs(16, seed=3), MLP.inputs(16, seed=4)
    teacher = MLP.module()
    teacher_before = copy.deepcopy(teacher.state_dict())

    def exact_distances() -> list[float]:
        module = MLP.module()
        module.load_state_dict(student.masked_params)
        kernels = relative_error(brute_force_kernel(module, x1, x2), brute_force_kernel(teacher, x1, x2))
        return [kernels, relative_error(module(x1), teacher(x1))]

    before = exact_distances()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        probe = draw_probe((16, 3), like=x1, generator=generator)
        loss = transfer_step(student, StepBatch(x1, x2, probe, teacher_products(x1, x2, probe)), RELATIVE)
    assert not loss.total.requires_grad
    after = exact_distances()
    assert after[0] < 0.9 * before[0]
    assert after[1] < 0.5 * before[1]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, teacher_before[name])


def test_a_student_begins_as_the_teacher_and_apart_from_it() -> None:
    teacher = MLP.functional()
    before = copy.deepcopy(teacher.params)
    student = start_student(teacher, ["0.weight", "4.weight"], learning_rate=0.1)
    assert student.density == 1
    assert {name: (mask.dtype, bool(mask.all())) for name, mask in student.masks.items()} == {
        "0.weight": (torch.bool, True),
        "4.weight": (torch.bool, True),
    }
    assert torch.equal(student.apply(student.masked_params, X1), MLP.module()(X1))
    probe = torch.ones(3, 3).double()
    objective = Objective(name="relative", kernel_weight=1.0, weight_penalty=1.0)
    transfer_step(student, StepBatch(X1, X2, probe, teacher_products(X1, X2, probe)), objective)
    assert not torch.equal(student.params["0.weight"].detach(), before["0.weight"])
    for name, value in teacher.params.items():
        assert torch.equal(value, before[name])


def test_new_masks_make_a_new_student_of_the_same_parameters() -> None:
    model = MLP.functional()
    dense = start_student(model, ["0.weight"], learning_rate=0.1)
    masks = {"0.weight": random_masks(model.params)["0.weight"]}
    other = functional_model(nn.Linear(5, 3)).bind()
    sparse = under_masks(dense, masks, density=0.5, apply=other)
    assert (sparse.density, sparse.apply) == (0.5, other)
    assert sparse.masks.keys() == masks.keys()
    assert torch.equal(sparse.masks["0.weight"], masks["0.weight"])
    assert torch.equal(sparse.mask_bits["0.weight"], torch.where(masks["0.weight"], -1, 0))
    assert sparse.params is dense.params
    assert sparse.optimiser is dense.optimiser
    assert dense.masks["0.weight"].all()


def test_what_is_spent_is_freed_on_the_way() -> None:
    """Masked weights, `J(x2)ᵀ v` and the gradient are whole at once, or the gradient by `J(x2)ᵀ v` in its place."""
    model = functional_model(nn.Sequential(*(nn.Linear(256, 256) for _ in range(8))))
    x1, x2, probe = torch.randn(3, 2, 256, generator=torch.Generator().manual_seed(1))
    teacher = kernel_vector_product(model.bind(), model.params, x1, x2, probe)
    masks = as_bits({name: p > 0 for name, p in model.params.items() if p.dim() > 1}, model.params)
    objective = Objective("relative", kernel_weight=1.0, weight_penalty=0.1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        transfer_gradients(
            model.bind(), model.params, masks, StepBatch(x1, x2, probe, teacher), density=0.5, objective=objective
        )
    assert profiler.profiler is not None
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())))
    assert 2 < peak / sum(p.nbytes for p in model.params.values()) < 3.5


@pytest.mark.parametrize(("loss", "moved"), [(3.0, 0.5), (6.0, 1.0), (100.0, 1.0), (0.0, 0.0)])
def test_a_step_changes_the_loss_by_at_most_itself(loss: float, moved: float) -> None:
    """To first order: here by `2·1 + (−1)·(−4) = 6`."""
    before = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([[3.0]])}
    step = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([[7.0]])}
    gradients = {"a": torch.tensor([2.0, -1.0]), "b": torch.tensor([[0.0]])}
    params = {name: before[name] + step[name] for name in before}
    limit_step(params, before, gradients, torch.tensor(loss))
    for name in before:
        torch.testing.assert_close(params[name], before[name] + moved * step[name])


def test_a_student_close_to_its_teacher_takes_short_steps() -> None:
    """Adam's first step has the length of its rate however small the loss; with a limit it does no harm."""
    model = MLP.functional()
    nudged = {name: p * (1 + 1e-6) for name, p in model.params.items()}
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in nudged.items() if p.ndim > 1}
    batch = StepBatch(X1, X2, None, compute_outputs(model.bind(), model.params, X1, X2, None))
    objective = Objective(name="relative", kernel_weight=0.0, weight_penalty=0.0)
    losses = {}
    for limited in (False, True):
        student = start_student(replace(model, params=nudged), masks, learning_rate=1e-2, limited=limited)
        losses[limited] = [float(transfer_step(student, batch, objective).total) for _ in range(5)]
    assert max(losses[False]) > 1e6 * losses[False][0]
    assert max(losses[True]) <= 4 * losses[True][0]

"""One step of the transfer: move the student's weights so that its kernel and outputs become the teacher's.

The gradient of the loss at the masked weights `m ⊙ w`, then one step of Adam. The mask stays as it is.

Masks are 8-bit integers here, all bits set where an entry is kept (−1) and none where it is pruned (0): a bitwise "and"
with a weight is several times as fast as a choice by bools. `as_bits` makes them, `apply_masks` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.kernels.product import Outputs, outputs_and_pullback
from ntt_cli.masks.masks import apply_masks, as_bits, masked
from ntt_cli.methods.ntt.objective import Objective, TransferLoss, outputs_gradient, weight_penalty
from ntt_cli.networks.functional import BoundModel, FunctionalModel
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.optimiser import advance
from ntt_cli.tensors import Apply, Masks, Params


@dataclass(frozen=True)
class StepBatch:
    """What one step learns from. Where several processes share a step, each has its share of both halves.

    Attributes:
        x1: first half of the samples, `[n, ...]`.
        x2: second half, `[m, ...]`.
        probe: Gaussian `v`, `[m, c]`; `None` to match the outputs alone, without a kernel term.
        teacher: the teacher's outputs for the same halves, with the same probe.
    """

    x1: Batch
    x2: Batch
    probe: Tensor | None
    teacher: Outputs


def transfer_gradients(
    apply: Apply,
    params: Params,
    mask_bits: Masks,
    batch: StepBatch,
    *,
    density: float | Tensor,
    objective: Objective,
    execution: Execution = Execution(),
) -> tuple[TransferLoss, Params]:
    """`L`, detached, and its gradient with respect to each parameter; the gradient of a pruned entry is zero.

    Args:
        apply: the student's function.
        params: its parameters `w`, not yet masked, without a graph.
        mask_bits: its masks `m`, from `as_bits`.
        batch: this process's share of the step's batch; the loss and the gradient are of the whole batch.
        density: `d`; a tensor in compiled steps, so that another density compiles nothing anew.
        objective: what is minimised.
        execution: of the passes.
    """
    weights = apply_masks(params, mask_bits)
    active = mask_bits if objective.active else None
    outputs, pullback = outputs_and_pullback(
        apply, weights, batch.x1, batch.x2, batch.probe, active=active, execution=execution
    )
    penalty = weight_penalty(weights, mask_bits, density)
    loss, outputs_gradients = outputs_gradient(objective, outputs, batch.teacher, penalty, execution)
    del weights  # so that the pullback can free them, one by one
    gradients = pullback(outputs_gradients)
    slope = 2 * objective.weight_penalty / density
    for name, mask in mask_bits.items():
        if objective.weight_penalty:
            gradients[name] += params[name] * slope  # of `w` for `m ⊙ w`: the next line masks both
        gradients[name] = masked(gradients[name], mask)
    return loss, gradients


Gradients = Callable[..., tuple[TransferLoss, Params]]
"""`transfer_gradients`, or a compiled function of the same arguments."""


@dataclass(frozen=True)
class Student:
    """The student between two steps.

    Attributes:
        apply: its function, bound to its buffers: its batch-norm statistics, the teacher's until the first mask update.
            Without a kernel term, steps normalise by the statistics of their batch.
        params: its parameters; pruned entries get no gradient, but Adam's momentum carries them on for some steps.
        mask_bits: its masks, from `as_bits`.
        density: kept fraction of the prunable parameters.
        optimiser: Adam over `params`.
        limited: steps are limited by the loss, see `limit_step`.
        compiled: `transfer_gradients`, compiled, for steps in which one process takes each half of a batch in one pass.
    """

    apply: BoundModel
    params: Params
    mask_bits: Masks
    density: float
    optimiser: torch.optim.Optimizer
    limited: bool = False
    compiled: Gradients | None = None

    @property
    def masks(self) -> Masks:
        """Its masks as bools; computed at each call, so that a step has only the bits in memory."""
        return {name: bits.bool() for name, bits in self.mask_bits.items()}

    @property
    def masked_params(self) -> Params:
        """`m ⊙ w`, without a graph."""
        return apply_masks({name: p.detach() for name, p in self.params.items()}, self.mask_bits)


def start_student(
    teacher: FunctionalModel,
    prunable: Iterable[str],
    *,
    learning_rate: float,
    batch_statistics: bool = False,
    limited: bool = False,
    compiled: Gradients | None = None,
) -> Student:
    """A student that begins as the teacher: the teacher's parameters, nothing pruned."""
    params = {name: p.detach().clone().requires_grad_() for name, p in teacher.params.items()}
    # Fused Adam updates all parameters in one kernel. Other devices than these lack it, or lack it in double precision.
    fused = all(p.device.type in {"cpu", "cuda"} for p in params.values())
    optimiser = torch.optim.Adam(params.values(), lr=learning_rate, fused=fused)
    mask_bits = {name: torch.full_like(params[name], -1, dtype=torch.int8) for name in prunable}  # all bits set
    apply = teacher.bind(batch_statistics=batch_statistics)
    return Student(apply, params, mask_bits, 1.0, optimiser, limited, compiled)


def under_masks(student: Student, masks: Masks, *, density: float, apply: BoundModel) -> Student:
    """The same student with these masks, and with `apply` as its function."""
    return replace(student, mask_bits=as_bits(masks, student.params), density=density, apply=apply)


def transfer_step(
    student: Student, batch: StepBatch, objective: Objective, execution: Execution = Execution()
) -> TransferLoss:
    """Take one optimiser step on `L` and return the losses before it, detached.

    The student's parameters and optimiser are advanced in place: copying them would double the memory of a step. The
    processes that share the batch all move the same student in the same way.

    Raises:
        FloatingPointError: if the learning rate is beyond the range of the numbers.
    """
    compute = student.compiled if student.compiled is not None and execution.is_whole else transfer_gradients
    params = {name: p.detach() for name, p in student.params.items()}
    loss, gradients = compute(
        student.apply,
        params,
        student.mask_bits,
        batch,
        density=student.density,
        objective=objective,
        execution=execution,
    )
    for name, gradient in gradients.items():
        student.params[name].grad = gradient
    before = {name: p.clone() for name, p in params.items()} if student.limited else None
    advance(student.optimiser)
    if before is not None:
        limit_step(params, before, gradients, loss.total)
    student.optimiser.zero_grad(set_to_none=True)  # now, so that the next forward pass has their memory
    return loss


def limit_step(params: Params, before: Params, gradients: Params, loss: Tensor) -> None:
    """Shorten a step, in place, until to first order it changes the loss by no more than the loss.

    Adam's steps have the same length however small the loss is. While few weights are pruned, the student all but
    equals its teacher, and full steps ruin it (docs/notebook/26-step-limit.md). A step `Δ` is multiplied by
    `min(1, L / |g·Δ|)`. This is Polyak's step length for losses whose minimum is 0, with the learning rate as the
    largest length (Loizou et al. 2021, arXiv 2002.10542). Nothing is read back from the device.

    Args:
        params: the parameters after the step.
        before: the parameters before it.
        gradients: `g`, at `before`.
        loss: `L`, at `before`.
    """
    change = torch.stack([(gradients[name] * (params[name] - p)).sum() for name, p in before.items()]).sum().abs()
    share = (loss / change.clamp_min(torch.finfo(change.dtype).tiny)).clamp_max(1)
    for name, p in before.items():
        params[name].lerp_(p, (1 - share).to(p.dtype))

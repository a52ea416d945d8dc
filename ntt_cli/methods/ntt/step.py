"""One step of the transfer: move the student's weights so that its kernel and logits become the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ntt_cli.kernels.product import Answers, answers_and_pullback
from ntt_cli.masks.masks import apply_masks, as_bits, masked
from ntt_cli.methods.ntt.objective import Objective, TransferLoss, answers_gradient, penalty_slope
from ntt_cli.runtime.optimiser import advance
from ntt_cli.runtime.sharing import Sum, alone
from ntt_cli.tensors import Apply, Masks, Params


@dataclass(frozen=True)
class Form:
    """What stays the same from the first step to the last.

    Attributes:
        objective: what is minimised.
        active: take the student's kernel over kept entries only.
        keep_graph: keep a graph for longer, to be faster (`answers_and_pullback`).
    """

    objective: Objective
    active: bool = False
    keep_graph: bool = False


def transfer_gradients(
    apply: Apply,
    params: Params,
    mask_bits: Masks,
    x1: Tensor,
    x2: Tensor,
    *,
    probe: Tensor | None,
    teacher: Answers,
    density: float | Tensor,
    form: Form,
    chunk: int | None = None,
    total: Sum = alone,
) -> tuple[TransferLoss, Params]:
    """`L`, detached, and its gradient by each parameter; that of a pruned entry is zero.

    Args:
        apply: the student's function.
        params: its parameters, without a graph.
        mask_bits: its masks, from `as_bits`.
        x1: first half of the batch, `[n, ...]`.
        x2: second half, `[m, ...]`.
        probe: Gaussian `v`, `[m, c]`; `None` to match the logits alone.
        teacher: the teacher's answers on the same halves with the same probe.
        density: kept fraction of the prunable parameters.
        form: of the loss.
        chunk: samples that go through the network at once; all of a half by default.
        total: sums over the processes that share the batch.
    """
    weights = apply_masks(params, mask_bits)
    restriction = mask_bits if form.active else None
    own, pullback = answers_and_pullback(
        apply, weights, x1, x2, probe, active=restriction, keep_graph=form.keep_graph, chunk=chunk, total=total
    )
    loss, by_answers = answers_gradient(
        form.objective, own, teacher, params=weights, prunable=mask_bits, density=density, total=total
    )
    del weights  # the pullback frees them as it goes
    gradients = pullback(by_answers)
    slope = penalty_slope(form.objective, density)
    for name, mask in mask_bits.items():
        if form.objective.weight_penalty:
            gradients[name] += params[name] * slope
        gradients[name] = masked(gradients[name], mask)
    return loss, gradients


Gradients = Callable[..., tuple[TransferLoss, Params]]


@dataclass(frozen=True)
class Student:
    """The student between two steps.

    Attributes:
        apply: its function, bound to its buffers.
        params: its parameters; pruned entries get no gradient, but Adam's momentum carries them on for some steps.
        mask_bits: its masks, from `as_bits`.
        density: kept fraction of the prunable parameters.
        optimiser: Adam over `params`.
        keep_graph: keep a graph for longer, to be faster (`answers_and_pullback`).
        compiled: the same as `transfer_gradients` of a whole batch, faster; `None` where there is no such thing.
    """

    apply: Apply
    params: Params
    mask_bits: Masks
    density: float
    optimiser: torch.optim.Optimizer
    keep_graph: bool = False
    compiled: Gradients | None = None

    @property
    def masks(self) -> Masks:
        """Its masks as bools, made anew at each call, so that a step holds them once."""
        return {name: bits.bool() for name, bits in self.mask_bits.items()}

    @property
    def masked_params(self) -> Params:
        """`m ⊙ w`, without a graph."""
        return apply_masks({name: p.detach() for name, p in self.params.items()}, self.mask_bits)


def start_student(
    apply: Apply,
    teacher: Params,
    prunable: Iterable[str],
    *,
    learning_rate: float,
    keep_graph: bool = False,
    compiled: Gradients | None = None,
) -> Student:
    """A student that begins as the teacher: its parameters, nothing pruned."""
    params = {name: p.detach().clone().requires_grad_() for name, p in teacher.items()}
    # torch's fused Adam is one kernel for all parameters; it has none for some devices and for double precision there.
    fused = all(p.device.type in {"cpu", "cuda"} for p in params.values())
    optimiser = torch.optim.Adam(params.values(), lr=learning_rate, fused=fused)
    return Student(
        apply=apply,
        params=params,
        mask_bits={name: torch.full_like(params[name], -1, dtype=torch.int8) for name in prunable},
        density=1.0,
        optimiser=optimiser,
        keep_graph=keep_graph,
        compiled=compiled,
    )


def update_masks(student: Student, masks: Masks, *, density: float, apply: Apply) -> Student:
    """The same student under other masks, bound to other buffers if `apply` is another."""
    return replace(student, mask_bits=as_bits(masks, student.params), density=density, apply=apply)


def transfer_step(
    student: Student,
    x1: Tensor,
    x2: Tensor,
    *,
    probe: Tensor | None,
    teacher: Answers,
    objective: Objective,
    active: bool,
    chunk: int | None = None,
    total: Sum = alone,
) -> TransferLoss:
    """Take one optimiser step on `L` and return the losses before it, detached.

    The student's parameters and optimiser are advanced in place: copying them would double the memory of a step.

    Args:
        student: the student.
        x1: first half of the batch, `[n, ...]`.
        x2: second half, `[m, ...]`.
        probe: Gaussian `v`, `[m, c]`; `None` to match the logits alone.
        teacher: the teacher's answers on the same halves with the same probe.
        objective: what is minimised.
        active: take the student's kernel over kept entries only.
        chunk: samples that go through the network at once; all of a half by default.
        total: sums over the processes that share the batch; all of them move the same student in the same way.

    Raises:
        FloatingPointError: if the learning rate is beyond the range of the numbers.
    """
    find: Gradients = partial(transfer_gradients, chunk=chunk, total=total)
    if student.compiled is not None and chunk is None and total is alone:
        find = student.compiled
    loss, gradients = find(
        student.apply,
        {name: p.detach() for name, p in student.params.items()},
        student.mask_bits,
        x1,
        x2,
        probe=probe,
        teacher=teacher,
        density=student.density,
        form=Form(objective, active=active, keep_graph=student.keep_graph),
    )
    for name, gradient in gradients.items():
        student.params[name].grad = gradient
    advance(student.optimiser)
    student.optimiser.zero_grad(set_to_none=True)  # now, so that the next forward pass has their memory
    return loss

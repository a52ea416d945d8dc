"""What the transfer minimises: `L = λ_K · D_K + D_f + (λ_2 / d) · ‖m ⊙ w‖²`.

The objective function of Liu & Zenke 2020, arXiv 2006.08228: `D_K` is the distance between the kernels of student and
teacher, `D_f` that between their outputs. `paper` is its form there; `relative` has no units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.kernels.product import Outputs, OutputsAndProduct
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Params

ObjectiveName = Literal["relative", "paper"]


@dataclass(frozen=True)
class Objective:
    """The terms' form and weights.

    Attributes:
        name: `relative` (distances over the teacher's norm, without units) or `paper` (mean squared differences).
        kernel_weight: λ_K.
        weight_penalty: λ_2.
    """

    name: ObjectiveName
    kernel_weight: float
    weight_penalty: float


@dataclass(frozen=True)
class TransferLoss:
    """The loss and its parts, each a scalar; the parts are unweighted.

    Attributes:
        total: what is minimised.
        kernel_distance: `D_K`; `None` where no kernel product was taken.
        logit_distance: `D_f`.
        weight_penalty: `‖m ⊙ w‖² / d`.
        alignment: not minimised: the cosine between `K_s v` and `K_t v`, an estimate of that between the kernels.
    """

    total: Tensor
    kernel_distance: Tensor | None
    logit_distance: Tensor
    weight_penalty: Tensor
    alignment: Tensor | None


def squared_norm(params: Params, names: Iterable[str]) -> Float[Tensor, ""]:
    """`‖w‖²` over the named parameters."""
    return torch.stack([torch.linalg.vector_norm(params[name]).square() for name in names]).sum()


def transfer_loss(
    objective: Objective,
    student: Outputs,
    teacher: Outputs,
    *,
    params: Params,
    prunable: Iterable[str],
    density: float | Tensor,
    execution: Execution = Execution(),
) -> TransferLoss:
    """The loss of one batch from the outputs of student and teacher, with the same Gaussian probe.

    `relative` distances are `‖s − t‖² / ‖t‖²`, those of `paper` `mean((s − t)²)`. With kernel products, `‖A v‖²` for
    `A = K_s − K_t` stands for `‖A‖²_F`, its expectation over the probe `v`; without a probe there is no kernel
    term.

    Args:
        objective: form and weights.
        student: the student's outputs at the masked parameters, with their graph.
        teacher: the teacher's outputs.
        params: the student's masked parameters `m ⊙ w`.
        prunable: names of the parameters that the penalty is on.
        density: `d`, the kept fraction of them now.
        execution: the processes that share the batch. Each process gets its own share of the distances, and these sum
            to the distances of the whole batch.
    """
    logits = torch.cat([student.logits1, student.logits2])
    target = torch.cat([teacher.logits1, teacher.logits2])
    parts = {"logits": (logits - target).square().sum()}
    sums = {"logits": _size(objective, target)}
    if isinstance(student, OutputsAndProduct) and isinstance(teacher, OutputsAndProduct):
        ours, theirs = student.product, teacher.product
        parts["kernel"] = (ours - theirs).square().sum()
        sums |= {"kernel": _size(objective, theirs), "columns": _count(student.logits2)}
        own = ours.detach()
        sums |= {"inner": (own * theirs).sum(), "student": own.square().sum(), "teacher": theirs.square().sum()}
    sums = execution.all_reduce(sums)
    # A teacher of zeros leaves the plain squared norm over the smallest number: large, never NaN.
    shares = {name: part / sums[name].clamp_min(torch.finfo(part.dtype).tiny) for name, part in parts.items()}
    if objective.name == "paper" and "kernel" in shares:
        # `‖A v‖²` sums over the m·c columns of the kernel; the paper's distance is their mean.
        shares["kernel"] = shares["kernel"] / sums["columns"]
    penalty = squared_norm(params, prunable) / density
    return _combined(objective, shares, penalty, _cosine(sums) if "kernel" in shares else None)


def _combined(
    objective: Objective, distances: Mapping[str, Tensor], penalty: Tensor, alignment: Tensor | None
) -> TransferLoss:
    loss = distances["logits"] + objective.weight_penalty * penalty
    if "kernel" in distances:
        loss = loss + objective.kernel_weight * distances["kernel"]
    return TransferLoss(
        total=loss,
        kernel_distance=distances.get("kernel"),
        logit_distance=distances["logits"],
        weight_penalty=penalty,
        alignment=alignment,
    )


def _size(objective: Objective, teacher: Tensor) -> Tensor:
    """What a squared distance to the teacher is divided by: its squared norm, or its number of entries."""
    return teacher.square().sum() if objective.name == "relative" else _count(teacher)


def _count(values: Tensor) -> Tensor:
    return values.new_tensor(float(values.numel()))


def _cosine(sums: Params) -> Tensor:
    norms = sums["student"].sqrt() * sums["teacher"].sqrt()
    return sums["inner"] / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def outputs_gradient(
    objective: Objective,
    student: Outputs,
    teacher: Outputs,
    *,
    params: Params,
    prunable: Iterable[str],
    density: float | Tensor,
    execution: Execution = Execution(),
) -> tuple[TransferLoss, Outputs]:
    """`transfer_loss` of the whole batch, detached, and its gradient by each of the student's outputs.

    The arguments are those of `transfer_loss`, without a graph. `penalty_slope` times the weights is the gradient of
    the penalty.
    """
    leaves = {field.name: getattr(student, field.name).detach().requires_grad_() for field in fields(student)}
    loss = transfer_loss(
        objective,
        replace(student, **leaves),
        teacher,
        params=params,
        prunable=prunable,
        density=density,
        execution=execution,
    )
    gradients = torch.autograd.grad(loss.total, list(leaves.values()))
    by_outputs = replace(student, **dict(zip(leaves, gradients, strict=True)))
    shares = {"logits": loss.logit_distance} | (
        {} if loss.kernel_distance is None else {"kernel": loss.kernel_distance}
    )
    distances = execution.all_reduce({name: share.detach() for name, share in shares.items()})
    whole = _combined(objective, distances, loss.weight_penalty.detach(), loss.alignment)
    return whole, by_outputs


def penalty_slope(objective: Objective, density: float | Tensor) -> float | Tensor:
    """`2 λ_2 / d`: the penalty's gradient by a masked weight is this number times the weight."""
    return 2 * objective.weight_penalty / density

"""What the transfer minimises: `L = λ_K · D_K + D_f + (λ_2 / d) · ‖m ⊙ w‖²`. Liu & Zenke 2020, arXiv 2006.08228."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.core.functional import Params
from ntt_cli.core.kernel_product import Answers, KernelProduct

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
        alignment: no part of it: the cosine between `K_s v` and `K_t v`, an estimate of that between the kernels.
    """

    total: Tensor
    kernel_distance: Tensor | None
    logit_distance: Tensor
    weight_penalty: Tensor
    alignment: Tensor | None

    def detach(self) -> TransferLoss:
        """The same numbers without their graph."""
        return TransferLoss(
            total=self.total.detach(),
            kernel_distance=None if self.kernel_distance is None else self.kernel_distance.detach(),
            logit_distance=self.logit_distance.detach(),
            weight_penalty=self.weight_penalty.detach(),
            alignment=self.alignment,
        )


def relative_distance(student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """`‖s − t‖² / ‖t‖²`."""
    # A teacher of zeros leaves the plain squared norm over the smallest number: large, never NaN.
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(torch.finfo(teacher.dtype).tiny)


def mean_squared_distance(student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """`mean((s − t)²)`."""
    return (student - teacher).square().mean()


def squared_norm(params: Params, names: Iterable[str]) -> Float[Tensor, ""]:
    """`‖w‖²` over the named parameters."""
    return torch.stack([params[name].square().sum() for name in names]).sum()


def transfer_loss(
    objective: Objective,
    student: Answers,
    teacher: Answers,
    *,
    params: Params,
    prunable: Iterable[str],
    density: float,
) -> TransferLoss:
    """The loss of one batch from what student and teacher answer, with the same Gaussian probe.

    With kernel products, `‖A v‖²` for `A = K_s − K_t` stands for `‖A‖²_F`, its expectation over the probe `v`; with the
    logits alone there is no kernel term.

    Args:
        objective: form and weights.
        student: answers at the masked parameters, with their graph.
        teacher: answers of the teacher.
        params: the student's masked parameters `m ⊙ w`.
        prunable: names of the parameters that the penalty is on.
        density: `d`, the kept fraction of them now.
    """
    logits = torch.cat([student.logits1, student.logits2])
    target = torch.cat([teacher.logits1, teacher.logits2])
    distance = relative_distance if objective.name == "relative" else mean_squared_distance
    outputs = distance(logits, target)
    penalty = squared_norm(params, prunable) / density
    total = outputs + objective.weight_penalty * penalty
    kernel, cosine = None, None
    if isinstance(student, KernelProduct) and isinstance(teacher, KernelProduct):
        kernel = distance(student.product, teacher.product)
        cosine = torch.cosine_similarity(student.product.detach().flatten(), teacher.product.flatten(), dim=0)
        if objective.name == "paper":
            # The probe sums over the m·c columns of the kernel, whose mean is asked for.
            kernel = kernel / student.logits2.numel()
        total = total + objective.kernel_weight * kernel
    return TransferLoss(
        total=total, kernel_distance=kernel, logit_distance=outputs, weight_penalty=penalty, alignment=cosine
    )


def loss_gradients(
    objective: Objective,
    student: Answers,
    teacher: Answers,
    *,
    params: Params,
    prunable: Iterable[str],
    density: float,
) -> tuple[TransferLoss, Answers, Params]:
    """`transfer_loss`, detached, its gradient by each of the student's answers, and that of the penalty by its weights.

    The arguments are those of `transfer_loss`, without a graph. Without a penalty there are no weights in the third.
    """
    leaves = {field.name: getattr(student, field.name).detach().requires_grad_() for field in fields(student)}
    names = list(prunable)
    weights = {name: params[name].detach().requires_grad_() for name in names} if objective.weight_penalty else {}
    loss = transfer_loss(
        objective, replace(student, **leaves), teacher, params=params | weights, prunable=names, density=density
    )
    gradients = torch.autograd.grad(loss.total, [*leaves.values(), *weights.values()])
    found = dict(zip([*leaves, *weights], gradients, strict=True))
    by_answers = replace(student, **{name: found[name] for name in leaves})
    return loss.detach(), by_answers, {name: found[name] for name in weights}

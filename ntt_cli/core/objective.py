"""What the transfer minimises: `L = λ_K · D_K + D_f + (λ_2 / d) · ‖m ⊙ w‖²`. Liu & Zenke 2020, arXiv 2006.08228."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.core.functional import Params
from ntt_cli.core.kernel_product import KernelProduct

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
        kernel_distance: `D_K`.
        logit_distance: `D_f`.
        weight_penalty: `‖m ⊙ w‖² / d`.
    """

    total: Tensor
    kernel_distance: Tensor
    logit_distance: Tensor
    weight_penalty: Tensor


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
    student: KernelProduct,
    teacher: KernelProduct,
    *,
    params: Params,
    prunable: Iterable[str],
    density: float,
) -> TransferLoss:
    """The loss of one batch from the products of student and teacher with the same Gaussian probe.

    With `A = K_s − K_t`, `‖A v‖²` stands for `‖A‖²_F`, its expectation over the probe `v`.

    Args:
        objective: form and weights.
        student: products at the masked parameters, with their graph.
        teacher: products of the teacher.
        params: the student's masked parameters `m ⊙ w`.
        prunable: names of the parameters that the penalty is on.
        density: `d`, the kept fraction of them now.
    """
    logits = torch.cat([student.logits1, student.logits2])
    target = torch.cat([teacher.logits1, teacher.logits2])
    if objective.name == "relative":
        kernel = relative_distance(student.product, teacher.product)
        outputs = relative_distance(logits, target)
    else:
        # The probe sums over the m·c columns of the kernel, whose mean is asked for.
        kernel = mean_squared_distance(student.product, teacher.product) / student.logits2.numel()
        outputs = mean_squared_distance(logits, target)
    penalty = squared_norm(params, prunable) / density
    total = objective.kernel_weight * kernel + outputs + objective.weight_penalty * penalty
    return TransferLoss(total=total, kernel_distance=kernel, logit_distance=outputs, weight_penalty=penalty)

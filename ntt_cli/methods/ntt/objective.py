"""What the transfer minimises: `L = λ_K · D_K + D_f + D_h + (λ_2 / d) · ‖m ⊙ w‖²`.

The objective function of Liu & Zenke 2020, arXiv 2006.08228. `D_K` is the distance between the kernels `K_s` and `K_t`
of student and teacher, `D_f` the distance between their outputs `f_s` and `f_t`. There are two objectives:

- `paper`: `D_K = mean (K_s − K_t)²` and `D_f = mean (f_s − f_t)²`, as in the paper;
- `relative`: `D_K = ‖K_s − K_t‖²_F / ‖K_t‖²_F` and `D_f = ‖f_s − f_t‖² / ‖f_t‖²`, which have no units.

If a network has several heads, of different scales, `relative` takes each by itself and averages over heads:
`D_f = mean_h ‖(f_s − f_t)_h‖² / ‖(f_t)_h‖²` and `D_K = mean_h ‖(K_s − K_t)_h‖²_F / ‖(K_t)_h‖²_F`, where `(K)_h` are the
kernel's rows of the outputs of head `h`. `paper` is the mean over all outputs of all heads.

`D_h` is the same mean as `D_f` over hidden heads, what the network's blocks return (`networks/hidden.py`). It is not in
the paper, and 0 where there are no hidden heads.

The kernels are never formed: with a Gaussian probe `v`, `‖K v‖²` estimates `‖K‖²_F` (`kernels/product.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.data.bundle import Bundle
from ntt_cli.kernels.product import Outputs, OutputsAndProduct
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Params

ObjectiveName = Literal["relative", "paper"]


@dataclass(frozen=True)
class Objective:
    """Which distances are minimised, and the factors of the terms.

    Attributes:
        name: `relative` or `paper`, see above.
        kernel_weight: λ_K; with 0 there is no kernel term, and no probe is drawn.
        weight_penalty: λ_2, the factor. The sum that it multiplies is `TransferLoss.weight_penalty`.
        active: take the student's Jacobian with respect to kept entries alone. Otherwise it is with respect to all
            entries at the point `m ⊙ w`, pruned ones too, as in the authors' published code.
        heads: the number of outputs in each head, if there are several.
        hidden: the number of hidden heads, which are the last ones.
        counted: the number of outputs that count in each half of the batch, if not all do; `paper` divides by it.
    """

    name: ObjectiveName
    kernel_weight: float
    weight_penalty: float
    active: bool = False
    heads: tuple[int, ...] = ()
    hidden: int = 0
    counted: tuple[int, int] | None = None

    def on(self, model: FunctionalModel, x1: Batch, x2: Batch) -> Objective:
        """The objective for these halves of a batch, some of whose outputs may not count."""
        heads = x1.sizes or () if isinstance(x1, Bundle) else self.heads
        first, second = (model.counted(x) for x in (x1, x2)) if self.name == "paper" else (None, None)
        counted = None if first is None or second is None else (first, second)
        return self if (heads, counted) == (self.heads, self.counted) else replace(self, heads=heads, counted=counted)


@dataclass(frozen=True)
class TransferLoss:
    """The loss and its terms, each a scalar, the terms without their factors.

    Attributes:
        total: `L`.
        kernel_distance: `D_K`; `None` without a kernel term.
        logit_distance: `D_f`.
        weight_penalty: `‖m ⊙ w‖² / d`.
        alignment: the cosine between `K_s v` and `K_t v`, which estimates the cosine between the kernels. It is
            reported, not minimised. `None` without a kernel term.
        hidden_distance: `D_h`; `None` without hidden heads.
    """

    total: Tensor
    kernel_distance: Tensor | None
    logit_distance: Tensor
    weight_penalty: Tensor
    alignment: Tensor | None
    hidden_distance: Tensor | None = None


def weight_penalty(params: Params, names: Iterable[str], density: float | Tensor) -> Float[Tensor, ""]:
    """`‖w‖² / d` over the named parameters, for the kept fraction `d` of them."""
    return torch.stack([torch.linalg.vector_norm(params[name]).square() for name in names]).sum() / density


def transfer_loss(
    objective: Objective,
    student: Outputs,
    teacher: Outputs,
    penalty: Tensor,
    execution: Execution = Execution(),
) -> TransferLoss:
    """The loss of one batch, from the outputs and kernel products of student and teacher with the same probe `v`.

    `D_K` of `paper` is `‖K_s v − K_t v‖² / (n m c²)`, whose expectation over `v` is exact. `D_K` of `relative` is
    `‖K_s v − K_t v‖² / ‖K_t v‖²`: numerator and denominator are both estimates, by the same probe. With several heads
    it is the mean of `‖(K_s v − K_t v)_h‖² / ‖(K_t v)_h‖²` over the heads `h`.

    The student's outputs are those at its masked parameters, whose `weight_penalty` is `penalty`. Without kernel
    products of both networks, there is no kernel term. Each of the processes that share the batch gets its own share of
    the distances, and these sum to the distances of the whole batch. The penalty is whole in each.
    """
    logits = torch.cat([student.logits1, student.logits2])
    target = torch.cat([teacher.logits1, teacher.logits2])
    numerators = {"logits": _squares(objective, logits - target)}
    # Divisors and the cosine's sums are of the whole batch: they are added up over the processes in one call.
    rows, columns = objective.counted or (student.logits1.numel(), student.logits2.numel())
    sums = {"logits": _divisor(objective, target, rows + columns)}
    if isinstance(student, OutputsAndProduct) and isinstance(teacher, OutputsAndProduct):
        numerators["kernel"] = _squares(objective, student.product - teacher.product)
        sums |= {"kernel": _divisor(objective, teacher.product, rows), "columns": target.new_tensor(float(columns))}
        detached = student.product.detach()
        sums |= {
            "inner": (detached * teacher.product).sum(),
            "student": detached.square().sum(),
            "teacher": teacher.product.square().sum(),
        }
    sums = execution.all_reduce(sums)
    # If the teacher's outputs are all zero, the relative distance is large, but not NaN.
    ratios = {name: part / sums[name].clamp_min(torch.finfo(part.dtype).tiny) for name, part in numerators.items()}
    if objective.hidden:
        own, hidden = ratios["logits"].tensor_split([-objective.hidden])
        ratios |= {"logits": own, "hidden": hidden}
    distances = {name: ratio.mean() if ratio.ndim else ratio for name, ratio in ratios.items()}
    if objective.name == "paper" and "kernel" in distances:
        # So far divided by the n·c entries of `K v`. Each of them sums over m·c columns of `K`: divide by these too.
        distances["kernel"] = distances["kernel"] / sums["columns"]
    return _weighted_sum(objective, distances, penalty, _cosine(sums) if "kernel" in distances else None)


def _weighted_sum(
    objective: Objective, distances: Mapping[str, Tensor], penalty: Tensor, alignment: Tensor | None
) -> TransferLoss:
    """`L = λ_K · D_K + D_f + D_h + λ_2 · penalty`, with its terms."""
    logits, hidden, kernel = distances["logits"], distances.get("hidden"), distances.get("kernel")
    total = logits + objective.weight_penalty * penalty
    if hidden is not None:
        total = total + hidden
    if kernel is not None:
        total = total + objective.kernel_weight * kernel
    return TransferLoss(total, kernel, logits, penalty, alignment, hidden)


def _divisor(objective: Objective, teacher: Tensor, count: int) -> Tensor:
    """What a squared distance to the teacher's values is divided by: their squared norm, or the number that counts."""
    return _squares(objective, teacher) if objective.name == "relative" else teacher.new_tensor(float(count))


def _squares(objective: Objective, values: Float[Tensor, "n c"]) -> Float[Tensor, "*heads"]:
    """`Σ x²`; with several heads and distances relative to each, that of each head."""
    if objective.name != "relative" or len(objective.heads) < 2:
        return values.square().sum()
    return torch.stack([part.square().sum() for part in values.split(objective.heads, dim=1)])


def _cosine(sums: Params) -> Tensor:
    norms = sums["student"].sqrt() * sums["teacher"].sqrt()
    return sums["inner"] / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def outputs_gradient(
    objective: Objective,
    student: Outputs,
    teacher: Outputs,
    penalty: Tensor,
    execution: Execution = Execution(),
) -> tuple[TransferLoss, Outputs]:
    """`transfer_loss` of the whole batch, detached, and its gradient with respect to the student's outputs.

    This is the first half of the chain rule: `∂L/∂f_s(x1)`, `∂L/∂f_s(x2)` and `∂L/∂(K_s v)`. `outputs_and_pullback`
    carries them on to the parameters. The penalty does not go through the outputs.
    """
    leaves = {field.name: getattr(student, field.name).detach().requires_grad_() for field in fields(student)}
    loss = transfer_loss(objective, replace(student, **leaves), teacher, penalty, execution)
    gradients = torch.autograd.grad(loss.total, list(leaves.values()))
    outputs_gradients = replace(student, **dict(zip(leaves, gradients, strict=True)))
    terms = {"logits": loss.logit_distance, "hidden": loss.hidden_distance, "kernel": loss.kernel_distance}
    shares = {name: term.detach() for name, term in terms.items() if term is not None}
    return _weighted_sum(objective, execution.all_reduce(shares), penalty, loss.alignment), outputs_gradients

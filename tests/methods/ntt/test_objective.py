from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.kernels.product import Outputs, OutputsAndProduct, draw_probe, kernel_vector_product
from ntt_cli.methods.ntt.objective import (
    Objective,
    ObjectiveName,
    TransferLoss,
    outputs_gradient,
    transfer_loss,
    weight_penalty,
)
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution
from tests.kernel_cases import MODEL_CASES, brute_force_kernel
from tests.shares import in_shares

# One row, two columns, two outputs: squared differences 1 + 9 in the products, 0 + 4, 9 + 1, 0 + 9 in the logits.
STUDENT = OutputsAndProduct(
    logits1=torch.tensor([[1.0, 2.0]]),
    logits2=torch.tensor([[3.0, 1.0], [0.0, 4.0]]),
    product=torch.tensor([[3.0, 4.0]]),
)
TEACHER = OutputsAndProduct(
    logits1=torch.tensor([[1.0, 0.0]]),
    logits2=torch.tensor([[0.0, 2.0], [0.0, 1.0]]),
    product=torch.tensor([[2.0, 1.0]]),
)
PARAMS = {"a": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([10.0]), "b": torch.tensor([[3.0]])}


def loss_of(objective: Objective, student: Outputs = STUDENT, teacher: Outputs = TEACHER) -> TransferLoss:
    return transfer_loss(objective, student, teacher, weight_penalty(PARAMS, ["a", "b"], 0.25))


@pytest.mark.parametrize(
    ("name", "kernel", "logits"),
    [
        ("relative", 10 / 5, 23 / 6),
        ("paper", 10 / 2 / 4, 23 / 6),  # over the product's two entries and the probe's four
    ],
)
def test_by_hand(name: ObjectiveName, kernel: float, logits: float) -> None:
    loss = loss_of(Objective(name=name, kernel_weight=100.0, weight_penalty=0.5))
    assert loss.kernel_distance.item() == pytest.approx(kernel)
    assert loss.logit_distance.item() == pytest.approx(logits)
    assert loss.weight_penalty.item() == pytest.approx((1 + 4 + 9) / 0.25)
    assert loss.alignment.item() == pytest.approx((3 * 2 + 4 * 1) / (25 * 5) ** 0.5)
    assert loss.total.item() == pytest.approx(100 * kernel + logits + 0.5 * 56)


@pytest.mark.parametrize(("name", "factor"), [("relative", 1.0), ("paper", 9.0)])
def test_only_the_relative_form_has_no_units(name: ObjectiveName, factor: float) -> None:
    def tripled(products: OutputsAndProduct) -> OutputsAndProduct:
        return OutputsAndProduct(
            logits1=3 * products.logits1, logits2=3 * products.logits2, product=3 * products.product
        )

    objective = Objective(name=name, kernel_weight=1.0, weight_penalty=0.0)
    before, after = loss_of(objective), loss_of(objective, tripled(STUDENT), tripled(TEACHER))
    assert after.kernel_distance.item() == pytest.approx(factor * before.kernel_distance.item())
    assert after.logit_distance.item() == pytest.approx(factor * before.logit_distance.item())


@pytest.mark.parametrize("name", ["relative", "paper"])
def test_logits_alone_have_no_kernel_term(name: ObjectiveName) -> None:
    objective = Objective(name=name, kernel_weight=100.0, weight_penalty=0.5)
    loss = loss_of(objective, Outputs(STUDENT.logits1, STUDENT.logits2), Outputs(TEACHER.logits1, TEACHER.logits2))
    assert loss.kernel_distance is None
    assert loss.alignment is None
    assert loss.total.item() == pytest.approx(23 / 6 + 0.5 * 56)


@pytest.mark.parametrize(
    ("name", "kernel", "logits"),
    [
        # By head: 1/4 and 9/1 in the products, (0 + 9 + 0) / 1 and (4 + 1 + 9) / 5 in the outputs.
        ("relative", (1 / 4 + 9 / 1) / 2, (9 / 1 + 14 / 5) / 2),
        ("paper", 10 / 2 / 4, 23 / 6),
    ],
)
def test_two_heads_by_hand(name: ObjectiveName, kernel: float, logits: float) -> None:
    loss = loss_of(Objective(name=name, kernel_weight=100.0, weight_penalty=0.5, heads=(1, 1)))
    assert loss.kernel_distance.item() == pytest.approx(kernel)
    assert loss.logit_distance.item() == pytest.approx(logits)
    assert loss.total.item() == pytest.approx(100 * kernel + logits + 0.5 * 56)


class TwoHeads(nn.Module):
    """An embedding and one number a sample of a scale of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.near, self.far = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(x))
        return {"near": self.near(hidden), "far": 1000 * self.far(hidden)[:, 0]}


def test_hidden_heads_have_a_mean_of_their_own() -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(5, 9, dtype=torch.float64, requires_grad=own) for own in (True, False))

    def outputs(rows: Tensor) -> Outputs:
        return Outputs(logits1=rows[:3], logits2=rows[3:])

    objective = Objective("relative", kernel_weight=0.0, weight_penalty=0.0, heads=(2, 1, 3, 3), hidden=2)
    loss, gradient = outputs_gradient(objective, outputs(student.detach()), outputs(teacher), student.new_zeros(()))
    pairs = [(student[:, a:b], teacher[:, a:b]) for a, b in ((0, 2), (2, 3), (3, 6), (6, 9))]
    each = [(s - t).square().sum() / t.square().sum() for s, t in pairs]
    want = (each[0] + each[1]) / 2 + (each[2] + each[3]) / 2
    torch.testing.assert_close(loss.logit_distance, ((each[0] + each[1]) / 2).detach())
    torch.testing.assert_close(loss.hidden_distance, ((each[2] + each[3]) / 2).detach())
    torch.testing.assert_close(loss.total, want.detach())
    (by_torch,) = torch.autograd.grad(want, student)
    torch.testing.assert_close(torch.cat([gradient.logits1, gradient.logits2]), by_torch)


def test_two_heads_against_brute_force() -> None:
    """Exact kernels by one backward pass for each output of each sample, in float64."""
    x, probe = torch.randn(7, 5, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    student, teacher = (functional_model(TwoHeads(seed).double()) for seed in (1, 2))
    outputs, products, exact, rows = [], [], [], []
    for model in (student, teacher):
        outputs.append(kernel_vector_product(model.bind(), model.params, x[:3], x[3:], probe))
        module = TwoHeads(1 if model is student else 2).double()
        out = module(x)
        values = torch.cat([out["near"], out["far"][:, None]], dim=1)
        rows.append(values.detach())
        jacobian = torch.stack([
            torch.cat([
                g.flatten()
                for g in torch.autograd.grad(
                    y, list(module.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ])
            for y in values.flatten()
        ]).view(7, 4, -1)
        exact.append(torch.einsum("icp,jdp->icjd", jacobian[:3], jacobian[3:]))
        products.append(torch.einsum("icjd,jd->ic", exact[-1], probe))

    def relative(ours: Tensor, theirs: Tensor) -> float:
        parts = [(ours[:, head] - theirs[:, head], theirs[:, head]) for head in (slice(0, 3), slice(3, 4))]
        return sum(float(gap.square().sum() / norm.square().sum()) for gap, norm in parts) / 2

    objective = Objective("relative", kernel_weight=1.0, weight_penalty=0.0, heads=(3, 1))
    loss = transfer_loss(objective, *outputs, weight_penalty(PARAMS, ["a"], 1.0))
    assert loss.logit_distance.item() == pytest.approx(relative(*rows))
    assert loss.kernel_distance.item() == pytest.approx(relative(*products))


def test_weight_penalty_by_hand() -> None:
    weights = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert weight_penalty({"w": weights, "v": torch.ones(3)}, ["w"], 0.5).item() == pytest.approx(28.0)


def test_a_teacher_of_zeros_is_far_but_not_nan() -> None:
    objective = Objective(name="relative", kernel_weight=1.0, weight_penalty=0.0)
    zeros = OutputsAndProduct(logits1=torch.zeros(1, 2), logits2=torch.zeros(2, 2), product=torch.zeros(1, 2))
    assert loss_of(objective, zeros, zeros).total.item() == 0
    far = loss_of(objective, STUDENT, zeros)
    assert far.total.item() > 1e30
    assert far.alignment.item() == 0


@pytest.mark.parametrize("name", ["relative", "paper"])
@pytest.mark.parametrize("heads", [(), (1, 1)])
def test_shares_of_a_batch_have_the_loss_of_the_whole(name: ObjectiveName, heads: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn() -> OutputsAndProduct:
        return OutputsAndProduct(*(torch.randn(n, 2, generator=generator) for n in (3, 5, 3)))

    def share(of: OutputsAndProduct, rank: int) -> OutputsAndProduct:
        return OutputsAndProduct(*(values[rank::2] for values in (of.logits1, of.logits2, of.product)))

    objective, student, teacher = Objective(name, 2.0, 0.5, heads=heads), drawn(), drawn()

    def loss(execution: Execution) -> TransferLoss:
        own, theirs = share(student, execution.group.rank), share(teacher, execution.group.rank)
        return outputs_gradient(objective, own, theirs, weight_penalty(PARAMS, ["a", "b"], 0.25), execution)[0]

    whole = loss_of(objective, student, teacher)
    for own in in_shares(loss):
        for part in ("total", "kernel_distance", "logit_distance", "weight_penalty", "alignment"):
            torch.testing.assert_close(getattr(own, part), getattr(whole, part))


def test_paper_form_expects_the_mean_over_all_entries_of_the_kernel() -> None:
    case = MODEL_CASES[0]
    x1, x2 = case.inputs(2, seed=1), case.inputs(5, seed=2)
    ours, theirs = case.functional(), case.functional(seed=7)
    exact = (brute_force_kernel(case.module(), x1, x2) - brute_force_kernel(case.module(seed=7), x1, x2)).square()
    objective = Objective(name="paper", kernel_weight=1.0, weight_penalty=0.0)
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(300):
        probe = draw_probe((5, 3), like=x1, generator=generator)
        student, teacher = (
            kernel_vector_product(model.bind(), model.params, x1, x2, probe) for model in (ours, theirs)
        )
        loss = transfer_loss(objective, student, teacher, weight_penalty(ours.params, ["0.weight"], 1.0))
        estimates.append(loss.kernel_distance)
    sample = torch.stack(estimates)
    standard_error = sample.std() / len(sample) ** 0.5
    assert standard_error < 0.1 * exact.mean()
    assert (sample.mean() - exact.mean()).abs() < 3 * standard_error

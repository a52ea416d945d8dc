from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import InMemory, Samples
from ntt_cli.evaluation import agreement
from ntt_cli.kernels.exact import exact_kernel
from ntt_cli.kernels.product import OutputsAndProduct
from ntt_cli.networks.functional import FunctionalModel, functional_model
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.outputs import Heads, usual_logits
from ntt_cli.tensors import Apply, Params
from tests.parts import inputs_of

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))


def network(seed: int, outputs: int = 3) -> FunctionalModel:
    torch.manual_seed(seed)
    return functional_model(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs)))


def inputs() -> Inputs:
    return Inputs(samples=Samples(spec="some data", source=InMemory(X)), mean_std=None, device=torch.device("cpu"))


def kernel(model: FunctionalModel, chosen: Tensor | None = None) -> Tensor:
    def apply(params: dict[str, Tensor], x: Tensor) -> Tensor:
        logits = model.bind()(params, x)
        return logits if chosen is None else logits[:, chosen]

    return exact_kernel(apply, model.params, X, X)


def compare(
    student: FunctionalModel, teacher: FunctionalModel, *, outputs: int, run_passes: int = 0
) -> agreement.KernelComparison:
    return agreement.compare_kernels(student, teacher, inputs(), outputs=outputs, run_passes=run_passes)


def test_distances_are_those_of_exact_kernels_and_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "KERNEL_BATCHES", 500)
    student, teacher = network(1), network(2)
    found = agreement.measure_agreement(student, teacher, inputs(), classes=3, batch_size=8)
    ours, theirs = (model.bind()(model.params, X) for model in (student, teacher))
    assert found.logit_distance == pytest.approx(float((ours - theirs).square().sum() / theirs.square().sum()))
    assert found.top1_agreement == float((ours.argmax(1) == theirs.argmax(1)).double().mean())
    apart = ~torch.eye(len(X), dtype=torch.bool)  # the halves of a batch share no sample
    gap, norm = kernel(student) - kernel(teacher), kernel(teacher)
    exact = gap[apart].square().sum() / norm[apart].square().sum()
    distance = agreement.measure_kernel_distance(student, teacher, inputs(), outputs=3, batch_size=8)
    assert distance == pytest.approx(float(exact), rel=0.15)


def test_one_position_is_one_choice() -> None:
    student, teacher = network(1, outputs=6), network(2, outputs=6)
    found = agreement.measure_agreement(student, teacher, inputs(), classes=3)
    ours, theirs = (model.bind()(model.params, X).view(-1, 2, 3).argmax(2) for model in (student, teacher))
    assert found.top1_agreement == pytest.approx(float((ours == theirs).double().mean()))


class TwoHeads(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.near, self.far = nn.Linear(5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"near": self.near(x), "far": 1000 * self.far(x).view(-1, 2, 2)}


def test_each_head_is_relative_to_its_own_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "KERNEL_BATCHES", 50)
    heads = Heads(usual_logits, {"near": (3,), "far": (2, 2)})
    student, teacher = (replace(functional_model(TwoHeads(seed)), select_outputs=heads) for seed in (1, 2))
    found = agreement.measure_agreement(student, teacher, inputs(), classes=None, batch_size=8)
    with torch.no_grad():
        ours, theirs = TwoHeads(1)(X), TwoHeads(2)(X)
    each = {name: float((ours[name] - theirs[name]).square().sum() / theirs[name].square().sum()) for name in ours}
    assert found.heads == pytest.approx(each)
    assert found.logit_distance == pytest.approx(sum(each.values()) / 2)
    # Both heads are linear with parameters of their own, so that the kernel is the same for any weights.
    assert agreement.measure_kernel_distance(student, teacher, inputs(), outputs=7) == pytest.approx(0, abs=1e-9)
    frozen = replace(
        student, select_outputs=Heads(lambda returned: returned | {"near": 0 * returned["near"]}, heads.shapes)
    )
    distance = agreement.measure_kernel_distance(frozen, teacher, inputs(), outputs=7)
    assert distance == pytest.approx(0.5)  # the near head's rows are zero: a distance of 1 there, of 0 in the other


def test_small_kernels_are_compared_whole() -> None:
    student, teacher = network(1), network(2)
    summary = compare(student, teacher, outputs=3).summary
    ours, theirs = kernel(student), kernel(teacher)
    assert summary.alignment == pytest.approx(float((ours * theirs).sum() / (ours.norm() * theirs.norm())), rel=1e-5)
    assert (summary.samples, summary.outputs, summary.extent) == (24, 3, "24 samples")


@pytest.mark.parametrize(
    ("rows", "outputs", "extent"),
    [
        (60, 3, "20 samples"),
        (6, 3, "2 samples"),
        (5, 3, "2 samples, 2 of 3 outputs"),
        (1, 3, "1 sample, 1 of 3 outputs"),
        (100, 2000, "10 samples, 10 of 2,000 outputs"),
    ],
)
def test_large_kernels_are_compared_in_part(
    monkeypatch: pytest.MonkeyPatch, rows: int, outputs: int, extent: str
) -> None:
    monkeypatch.setattr(agreement, "SPECTRUM_ORDER", rows)
    student, teacher = network(1, outputs), network(2, outputs)
    found = compare(student, teacher, outputs=outputs)
    assert found.summary.extent == extent
    assert len(found.tensors["spectrum.teacher"]) == found.summary.samples * found.summary.outputs <= rows


def test_the_part_is_a_block_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "SPECTRUM_ORDER", 100)
    student, teacher = network(1, 200), network(2, 200)
    found = compare(student, teacher, outputs=200)
    chosen = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:10].sort().values
    ours, theirs = (kernel(model, chosen)[:10, :10] for model in (student, teacher))
    expected = float((ours * theirs).sum() / (ours.norm() * theirs.norm()))
    assert found.summary.alignment == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("flops", "samples"), [(2**34, 24), (100_000, 12), (1, 2)])
def test_kernels_take_a_share_of_the_run(monkeypatch: pytest.MonkeyPatch, flops: int, samples: int) -> None:
    """Counted in operations, so that the same run finds the same figures."""
    monkeypatch.setattr(agreement, "LEAST_FLOPS", flops)
    asked: list[int] = []
    exact = agreement.kernel_vector_product

    def watched(apply: Apply, params: Params, x1: Tensor, x2: Tensor, *more: Any, **options: Any) -> OutputsAndProduct:
        asked.append(len(x1) + len(x2))
        return exact(apply, params, x1, x2, *more, **options)

    monkeypatch.setattr(agreement, "kernel_vector_product", watched)
    student, teacher = network(1), network(2)
    agreement.measure_kernel_distance(student, teacher, inputs(), outputs=3)
    few = min(24 * agreement.KERNEL_BATCHES, max(2, flops // (6 * 2 * (5 * 8 + 8 * 3))))
    assert few - 24 < sum(asked) / 2 <= few
    summary = compare(student, teacher, outputs=3).summary
    assert summary.samples <= samples
    assert compare(student, teacher, outputs=3, run_passes=10**12).summary.samples == 24


def test_a_kernel_of_zeros_has_no_rank() -> None:
    student, teacher = network(1), network(2)
    nothing = {name: torch.zeros_like(p) for name, p in student.params.items()}
    frozen = replace(student, params=nothing, select_outputs=lambda returned: 0 * returned)
    kernel_free = agreement.compare_kernels(frozen, teacher, inputs(), outputs=3).summary
    assert (kernel_free.alignment, kernel_free.effective_rank_student) == (None, None)
    assert kernel_free.ranks.startswith("none, the teacher's ")


@pytest.mark.parametrize(
    ("shape", "sample", "declared", "classes"),
    [
        ((10,), (1, 8, 8), False, 10),
        ((6, 5), (6, 3), False, 5),
        ((6, 5), (3, 6, 5), False, None),  # a map of an image
        ((6, 5), (3, 6, 5), True, 5),
        ((6, 5), (3, 12, 10), False, 5),  # patches
        ((1,), (3,), False, None),
        ((6, 1), (6,), False, None),
        ((4, 8, 8), (8, 8), False, None),
        ((8, 8, 4), (3, 8, 8), True, 4),
        ((), (3,), False, None),
    ],
)
def test_which_outputs_choose_a_class(
    shape: tuple[int, ...], sample: tuple[int, ...], declared: bool, classes: int | None
) -> None:
    select_outputs = (lambda outputs: outputs) if declared else usual_logits
    loaded = LoadedModel(nn.Linear(1, 1), "model.py", None, None, None, select_outputs=select_outputs)
    inputs = inputs_of(torch.zeros(2, *sample))
    assert agreement.number_of_choices(Heads(select_outputs, {"output": shape}), loaded, inputs) == classes
    assert agreement.number_of_choices(Heads(select_outputs, {"pooled": shape}), loaded, inputs) is None

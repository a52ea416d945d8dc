from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.evaluation import agreement
from ntt_cli.networks.functional import functional_model
from ntt_cli.pruning import measures, prune
from tests.parts import inputs_of

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))


class Counted(nn.Sequential):
    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.rows += len(x) * (len(x) == 100)  # those of other checks are fewer
        return super().forward(x)


@pytest.mark.parametrize(("remembered", "passes"), [(2**26, 2), (3599, 3)])
def test_each_network_runs_once(remembered: int, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the student keeps its outputs. If they take too much memory, they are computed once more."""
    monkeypatch.setattr(measures, "REMEMBERED_BYTES", remembered)  # 300 rows of 3 floats take 3,600 bytes
    check = prune.check_outputs

    def counted(*given: Any, steps: int) -> measures.Checked | None:
        Counted.rows = 0
        return check(*given, steps=steps)

    monkeypatch.setattr(prune, "check_outputs", counted)
    torch.manual_seed(0)
    network = Counted(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    result = ntt.prune(network, X, sparsity=0.5, batch_size=100, steps=1)
    assert Counted.rows == passes * len(X)
    with torch.no_grad():
        theirs, ours = network(X).double(), result.model(X).double()
    error = (ours - theirs).norm() / theirs.norm()
    assert result.report.agreement is not None
    assert result.report.agreement.relative_error == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize(
    ("flops", "run_passes", "samples"),
    [(2**34, 0, 2048), (400 * 2 * 64, 0, 400), (1, 0, 256), (1, 50 * 2 * 500, 500), (1, 10**9, 2048)],
)
def test_agreement_takes_a_share_of_the_run(
    flops: int, run_passes: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "LEAST_FLOPS", flops)
    monkeypatch.setattr(agreement, "PASS_FLOPS", 0)
    teacher = functional_model(nn.Linear(4, 8))  # 2 · 4 · 8 operations a pass
    assert agreement.agreement_samples(teacher, inputs_of(X), run_passes=run_passes) == samples

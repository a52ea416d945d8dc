from __future__ import annotations

from pathlib import Path

import pytest

from ntt_cli.config import PruneConfig
from ntt_cli.pruning import estimate, prune
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    ("there", "advice"),
    [
        (10_000, None),  # of 64 samples at once: 1,000 + 16 × 10, 1,000 + 32 × 10, and so 1,000 + 64 × 10
        (1_640, None),
        (1_639, "try --micro-batch 63"),
        (1_200, "try --micro-batch 20"),
        (1_010, "try --micro-batch 1"),
        (1_009, "try a smaller --image-size, or another --device"),
    ],
)
def test_a_step_that_does_not_fit_is_not_taken(there: int, advice: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    step = estimate.take_step

    def counted(student, batches, number, micro_batching, execution):
        sizes.append(micro_batching.largest)
        return step(student, batches, number, micro_batching, execution)

    monkeypatch.setattr(estimate, "take_step", counted)
    monkeypatch.setattr(estimate, "peak_memory_bytes", lambda _: 1_000 + 10 * max(sizes))
    monkeypatch.setattr(estimate, "memory_bytes", lambda _: there)
    model = write_network("plain", Path())
    plan = prune.plan(PruneConfig(model=model, sparsity=0.8, batch_size=128, device="cpu"), lambda _: None)
    assert plan.advice == advice
    assert (plan.peak_memory_bytes, plan.memory_bytes) == (1_640, there)
    assert (plan.estimated_seconds is None) == (advice is not None)
    assert max(sizes) == (32 if advice else 64)


def test_no_prediction_where_memory_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "peak_memory_bytes", lambda _: None)
    model = write_network("plain", Path())
    plan = prune.plan(PruneConfig(model=model, sparsity=0.8, device="cpu"), lambda _: None)
    assert (plan.peak_memory_bytes, plan.advice) == (None, None)
    assert plan.estimated_seconds is not None

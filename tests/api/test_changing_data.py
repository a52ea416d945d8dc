"""A Dataset whose items differ in each reading: they are read anew, and the teacher answers for what was read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import ntt_cli as ntt
from ntt_cli.methods.ntt import loop
from ntt_cli.methods.ntt.step import StepBatch, transfer_step

N = 12


class Augmented(Dataset[Any]):
    """Counts how often each item is read; each reading adds the number of readings so far to the item."""

    def __init__(self, *, labelled: bool) -> None:
        self.labelled, self.reads = labelled, Counter[int]()

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        self.reads[i] += 1
        x = torch.linspace(-1, 1, 4).roll(i) + 0.01 * self.reads[i]
        return (x, {"sum": x.sum(), "half": x[:2]}) if self.labelled else x


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.parametrize("options", [{}, {"batches": 2}, {"kernel_weight": 1.0, "batches": 2}], ids=str)
def test_the_teacher_answers_for_the_inputs_of_this_reading(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, data, seen = network(), Augmented(labelled=False), []

    def watched(student: Any, batch: StepBatch, *rest: Any) -> Any:
        assert isinstance(batch.x1, Tensor)
        assert isinstance(batch.x2, Tensor)
        torch.testing.assert_close(batch.teacher.logits1, teacher(batch.x1).detach())
        torch.testing.assert_close(batch.teacher.logits2, teacher(batch.x2).detach())
        seen.append(batch.x1)
        return transfer_step(student, batch, *rest)

    monkeypatch.setattr(loop, "transfer_step", watched)
    ntt.prune(teacher, data, sparsity=0.5, steps=6, batch_size=2 * N, seed=1, **options)
    assert len(seen) == 6
    assert not any(torch.equal(one, other) for i, one in enumerate(seen) for other in seen[:i])


class Sums(ntt.Task):
    """Labels in a dict, which come from the same reading as the inputs."""

    def loss(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return (outputs[:, 0] - targets["sum"]).square().mean() + (outputs[:, 1:] - targets["half"]).square().mean()


def test_training_reads_every_item_anew_in_each_epoch() -> None:
    data, task = Augmented(labelled=True), Sums()
    counts: list[Counter[int]] = []
    for epochs in (1, 4):
        data.reads.clear()
        ntt.finetune(network(), data, epochs=epochs, task=task, validation=0.0, batch_size=4)
        counts.append(Counter(data.reads))
    assert all(counts[1][i] - counts[0][i] >= 3 for i in range(N))  # three epochs more read each item again


def test_labels_are_of_the_reading_of_their_inputs() -> None:
    data = Augmented(labelled=True)

    class Checked(Sums):
        def loss(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
            # The network is the identity: its first two outputs are the half, and all four add up to the sum.
            torch.testing.assert_close(outputs[:, :2].detach(), targets["half"])
            torch.testing.assert_close(outputs.sum(1).detach(), targets["sum"])
            return outputs.square().mean()

    same = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        same.weight.copy_(torch.eye(4))
    ntt.finetune(same, data, epochs=2, task=Checked(), validation=0.0, batch_size=N, learning_rate=1e-12)

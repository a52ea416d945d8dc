from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ntt_cli.config import PruneConfig
from ntt_cli.kernels.product import OutputsAndProduct, kernel_vector_product
from ntt_cli.methods.ntt import batches as module
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.pruning.job import prepare
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Params
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")


class Counting(FunctionalModel):
    """A teacher that counts the samples that it is asked about."""

    asked = 0

    def bind(self, buffers: Params | None = None) -> Any:
        apply = super().bind(buffers)

        def counted(params: Params, x: Tensor) -> Tensor:
            self.__dict__["asked"] = self.asked + len(x)
            return apply(params, x)

        return counted


def batches(**options: Any) -> Batches:
    given = {"sparsity": 0.8, "limit": 20, "device": "cpu", "batch_size": 8, "steps": 10} | options
    task = prepare(PruneConfig(model=write_network("plain"), **given), lambda _: None)
    assert task.inputs is not None
    teacher = Counting(**{field.name: getattr(task.teacher, field.name) for field in fields(FunctionalModel)})
    return Batches(Transfer(teacher, task.inputs, task.names, task.outputs, task.settings))


def asked(source: Batches) -> int:
    assert isinstance(source.transfer.teacher, Counting)
    return source.transfer.teacher.asked


def test_a_batch_is_what_the_teacher_says_of_it() -> None:
    source = batches()
    batch = source.at(3)
    assert (len(batch.x1), len(batch.x2)) == (4, 4)
    expected = kernel_vector_product(
        source.transfer.teacher.bind(), source.transfer.teacher.params, batch.x1, batch.x2, batch.probe
    )
    assert isinstance(batch.teacher, OutputsAndProduct)
    assert torch.equal(batch.teacher.product, expected.product)
    assert torch.equal(batch.teacher.logits2, expected.logits2)


def test_a_batch_depends_on_its_number_alone() -> None:
    source, other = batches(), batches()
    source.at(0), source.at(1)
    ours, theirs = source.at(2), other.at(2)
    assert torch.equal(ours.x1, theirs.x1)
    assert torch.equal(ours.probe, theirs.probe)
    assert not torch.equal(ours.x1, source.at(3).x1)


def test_batches_that_recur_are_asked_about_once() -> None:
    source = batches(batches=2)
    first = [source.at(step) for step in range(2)]
    once = asked(source)
    again = [source.at(step) for step in range(2, 6)]
    assert asked(source) == once
    for step, batch in enumerate(again):
        assert torch.equal(batch.x2, first[step % 2].x2)
        assert batch.teacher is first[step % 2].teacher
    fresh = batches()
    fresh.at(0)
    before = asked(fresh)
    fresh.at(0)
    assert asked(fresh) == 2 * before


def test_outputs_that_memory_has_no_room_for_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 700)  # one batch has 12 rows of 10 numbers
    source = batches(batches=2)
    first = [source.at(step) for step in range(2)]
    assert source.at(2).teacher is first[0].teacher
    assert source.at(3).teacher is not first[1].teacher


def test_logits_of_all_samples_are_asked_for_once() -> None:
    source = batches(kernel_weight=0)
    for step in range(5):
        batch = source.at(step)
        apply = source.transfer.teacher.bind()
        torch.testing.assert_close(
            batch.teacher.logits1,
            super(Counting, source.transfer.teacher).bind()(source.transfer.teacher.params, batch.x1),
        )
        assert apply is not None
        assert batch.probe is None
    assert asked(source) == 20


@pytest.mark.parametrize("limited", [False, True])
def test_logits_of_few_samples_are_asked_for_as_they_come(limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = batches(kernel_weight=0, steps=10 if limited else 2)
    if limited:
        monkeypatch.setattr(module, "REMEMBERED_BYTES", 799)  # 20 samples have 10 numbers of 4 bytes each
    for step in range(2):
        batch = source.at(step, Execution(3))
        torch.testing.assert_close(
            batch.teacher.logits2,
            super(Counting, source.transfer.teacher).bind()(source.transfer.teacher.params, batch.x2),
        )
    assert asked(source) == 16


NOISY = """
import numpy as np, torch
class Noisy(torch.utils.data.Dataset):
    own = np.random.default_rng(0)
    def __len__(self):
        return 20
    def __getitem__(self, i):
        return torch.full((1, 8, 8), i / 20) + {noise}
def build_data():
    return Noisy()
"""


@pytest.mark.parametrize("noise", ["torch.randn(1, 8, 8)", "float(self.own.normal())"])
@pytest.mark.parametrize("options", [{"batches": 2}, {"kernel_weight": 0.0}, {"kernel_weight": 0.0, "batches": 2}])
def test_what_the_teacher_says_is_of_the_very_inputs_that_are_random(noise: str, options: dict[str, Any]) -> None:
    Path("noisy.py").write_text(NOISY.format(noise=noise))
    source = batches(data="noisy.py", **options)
    for step in range(5):
        batch = source.at(step)
        apply, params = source.transfer.teacher.bind(), source.transfer.teacher.params
        torch.testing.assert_close(batch.teacher.logits1, apply(params, batch.x1))
        torch.testing.assert_close(batch.teacher.logits2, apply(params, batch.x2))
    if "batches" not in options:
        assert not torch.equal(source.at(0).x1, source.at(1).x1)

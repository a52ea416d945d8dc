"""`--steps auto`: samples held out, the distance on them, and a transfer that ends when that has flattened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ntt_cli.config import PruneConfig
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError
from ntt_cli.files.report_reader import read_report
from ntt_cli.kernels.exact import exact_kernel
from ntt_cli.methods.ntt import loop
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.step import start_student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.methods.ntt.validation import hold_out, validation_distance
from ntt_cli.pages.curves import transfer_figures
from ntt_cli.pruning import prune
from ntt_cli.pruning.job import PruneJob, prepare
from ntt_cli.runtime.events import Event, TransferStarted, Validated
from ntt_cli.runtime.execution import Execution
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")


def config(**values: Any) -> PruneConfig:
    options: dict[str, Any] = {"sparsity": 0.8, "limit": 40, "device": "cpu", "batch_size": 8, "steps": "auto"}
    return PruneConfig(model=write_network("plain"), output="x.safetensors", **(options | values))


def fixed_masks(**values: Any) -> tuple[PruneJob, Inputs, Batches]:
    task = prepare(config(**values), lambda _: None)
    assert task.inputs is not None
    transfer = Transfer(task.teacher, task.inputs, task.names, task.outputs, task.settings)
    training, validation = hold_out(transfer)
    return task, training.inputs, validation


@pytest.mark.parametrize(("samples", "others"), [(4, 2), (19, 2), (40, 4), (1437, 143)])
def test_samples_are_in_one_part_or_the_other(samples: int, others: int) -> None:
    task, training, validation = fixed_masks(limit=samples, data="digits")
    assert task.inputs is not None
    assert len(validation.transfer.inputs) == others
    parts = [part.batch(torch.arange(len(part))).flatten(1) for part in (training, validation.transfer.inputs)]
    rows = sorted(map(tuple, torch.cat(parts).tolist()))
    assert rows == sorted(map(tuple, task.inputs.batch(torch.arange(samples)).flatten(1).tolist()))


def test_at_most_512_are_held_out() -> None:
    assert len(fixed_masks(data="noise:6000", input_shape="1x8x8", limit=6000)[2].transfer.inputs) == 512


@pytest.mark.parametrize("kernel_weight", [0.0, 0.25])
def test_the_distance_is_that_of_exact_kernels(kernel_weight: float) -> None:
    task, _, validation = fixed_masks(kernel_weight=kernel_weight, weight_penalty=0.3)
    apply, params = task.teacher.bind(), task.teacher.params
    student = start_student(task.teacher, task.names, learning_rate=1.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in student.params.values():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    losses = []
    for number in range(8):
        batch = validation.at(number)
        x = torch.cat([batch.x1, batch.x2])
        with torch.no_grad():
            ours, theirs = apply(student.params, x), apply(params, x)
        loss = ((ours - theirs).norm() / theirs.norm()) ** 2
        if kernel_weight:
            assert batch.probe is not None
            products = [
                torch.einsum("nmcd,md->nc", exact_kernel(apply, point, batch.x1, batch.x2), batch.probe)
                for point in (student.params, params)
            ]
            loss += kernel_weight * ((products[0] - products[1]).norm() / products[1].norm()) ** 2
        losses.append(float(loss))
    expected = sum(losses) / 8
    assert validation_distance(student, validation) == pytest.approx(expected, rel=1e-4)
    assert validation_distance(student, validation, Execution(3)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("short_auto")
def test_a_transfer_ends_when_the_distance_has_flattened(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(transfer: Transfer) -> Batches:
        seen.append(len(transfer.inputs))
        return Batches(transfer)

    monkeypatch.setattr(loop, "Batches", watched)
    events: list[Event] = []
    report = prune.run(config(mask_update_every=2), events.append)
    assert seen == [36]
    looks = [event for event in events if isinstance(event, Validated)]
    assert [look.ends for look in looks[:-1]] == [None] * (len(looks) - 1)
    assert looks[-1].ends == looks[-1].step + 2 == report.steps < 60
    assert [event.steps for event in events if isinstance(event, TransferStarted)] == [60]
    recorded = load_file(report.report)
    assert (
        recorded["history.validation_step"].tolist()
        == [look.step for look in looks]
        == list(range(12, 99, 2))[: len(looks)]
    )
    assert recorded["history.validation_distance"].tolist() == pytest.approx([look.distance for look in looks])
    assert recorded["history.mask_update_step"].tolist() == list(range(0, report.steps, 2))
    assert len(recorded["history.total"]) == report.steps
    assert report.density == pytest.approx(0.2, abs=0.01)
    (drawn, _) = transfer_figures({"x": read_report(Path(report.report))})
    assert [len(panel.series[0].x) for panel in drawn.panels if "held out" in panel.title] == [len(looks)]


@pytest.mark.usefixtures("short_auto", "few_rounds")
@pytest.mark.parametrize("options", [{"mask": "synflow"}, {"kernel_weight": 0, "mask_update_every": 5}], ids=str)
def test_other_transfers_end_too(options: dict[str, Any]) -> None:
    assert prune.run(config(**options), lambda _: None).steps >= 4


def test_too_few_samples() -> None:
    with pytest.raises(DataError, match="has 3 samples, 4 are needed"):
        prune.run(config(limit=3), lambda _: None)

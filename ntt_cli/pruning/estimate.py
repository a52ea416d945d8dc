"""Estimate the time and memory of a transfer from a few measured steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from ntt_cli.methods.base import Pruned
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.loop import first_student, take_step
from ntt_cli.methods.ntt.method import TransferMethod
from ntt_cli.methods.ntt.plan import plan_transfer
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.pruning.job import PruneJob
from ntt_cli.pruning.measures import check_outputs, measure
from ntt_cli.runs.run import Run
from ntt_cli.runs.threads import threads_for
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.memory import memory_bytes, peak_memory_bytes
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks

Result = TypeVar("Result")

PROBE_STEPS = 10
TRIAL_PARTS = 4
"""The first steps take micro-batches of a quarter and of a half, so that a step that does not fit into memory is known
before it is taken."""


@dataclass(frozen=True)
class Estimate:
    """The time and memory of a whole run, as in `PrunePlan`; `None` for what is not known."""

    seconds_per_step: float | None = None
    estimated_seconds: float | None = None
    peak_memory_bytes: int | None = None
    memory_bytes: int | None = None
    advice: str | None = None


def estimate_run(job: PruneJob, run: Run, *, begun: float) -> tuple[Masks, Estimate]:
    """Choose masks, take a few steps and measure, without keeping more than the masks; the run began at `begun`."""
    assert job.inputs is not None
    assert isinstance(job.method, TransferMethod)
    context, micro_batching = job.context(run), run.micro_batching
    with threads_for(job.teacher, job.inputs):
        transfer = job.method.transfer_of(context).with_hidden_heads()
        before = time.perf_counter() - begun
        student, choosing = _timed(lambda: first_student(transfer, micro_batching))
        there, execution = memory_bytes(job.inputs.device), transfer.execution()
        predicted, advice = _predict_step(transfer, student, micro_batching, execution, there)
        if advice is not None:
            return student.masks, Estimate(None, None, predicted, there, advice)
        batches, steps = Batches(transfer), []
        for step in range(PROBE_STEPS):
            now = time.perf_counter()
            float(take_step(student, batches, step, micro_batching, execution).total)  # waits for the device
            steps.append(time.perf_counter() - now)
        _, finishing = _timed(lambda: _finish(job, context.pruned(student.params, student.masks), run))
    times = len(plan_transfer(job.settings, learned=transfer.fixed_masks is None).updates)
    one = statistics.median(steps[1:])
    # The first step also pays for the setup.
    seconds = before + times * choosing + steps[0] + (job.settings.steps - 1) * one + finishing
    return student.masks, Estimate(one, seconds, peak_memory_bytes(job.inputs.device), there)


def estimate_choice(job: PruneJob, run: Run, *, begun: float) -> tuple[Masks, Estimate]:
    """Choose masks in a few of the steps in which a method does so, and measure; the run began at `begun`."""
    steps = job.settings.steps
    few = min(PROBE_STEPS, steps)
    context = replace(job, settings=replace(job.settings, steps=few)).context(replace(run, on_event=lambda _: None))
    before = time.perf_counter() - begun
    masks, choosing = _timed(lambda: job.method.masks(context))
    return masks, Estimate(estimated_seconds=before + choosing * steps / few)


def _predict_step(
    transfer: Transfer, student: Student, micro_batching: MicroBatching, execution: Execution, there: int | None
) -> tuple[int | None, str | None]:
    """The peak memory of a step, from two steps with smaller micro-batches, and advice if it is too much."""
    whole = micro_batching.largest
    few = max(1, whole // TRIAL_PARTS)
    peaks = []
    for size in (few, 2 * few):
        smaller = replace(micro_batching, micro_batch=min(size, whole))
        take_step(student, Batches(transfer), 0, smaller, execution)
        peaks.append(peak_memory_bytes(transfer.inputs.device))
    first, second = peaks
    if first is None or second is None or there is None:
        return None, None
    each = (second - first) / few
    predicted = int(second + max(0, whole - 2 * few) * each)
    if predicted <= there:
        return predicted, None
    most = math.floor(few + (there - first) / each) if each > 0 else 0
    if most < 1:
        return predicted, "try a smaller --image-size, or another --device"
    return predicted, f"try --micro-batch {most}"


def _finish(job: PruneJob, pruned: Pruned, run: Run) -> None:
    measure(job, pruned, run, check_outputs(job, pruned, run, steps=PROBE_STEPS), steps=PROBE_STEPS)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun

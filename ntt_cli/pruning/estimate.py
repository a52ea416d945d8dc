"""What a transfer will take: time and memory, from one of each thing that it does, measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.loop import take_step
from ntt_cli.methods.ntt.plan import plan_transfer
from ntt_cli.methods.ntt.step import Student
from ntt_cli.pruning.job import PruneJob
from ntt_cli.runtime.memory import memory_bytes, peak_memory_bytes
from ntt_cli.runtime.micro_batching import MicroBatching

Result = TypeVar("Result")

PROBE_STEPS = 10
TRIAL_PARTS = 4
"""The first steps put a quarter and a half of the samples through the network at once, so that a step that does not fit
is known before it is taken."""


@dataclass(frozen=True)
class Estimate:
    """Of a whole run.

    Attributes:
        seconds_per_step: the median; `None` where a step would not fit.
        seconds: of all steps, mask updates, and of what comes before and after them; `None` like a step's.
        peak_memory_bytes: of the process, or on the GPU; `None` where none can tell.
        memory_bytes: how much there is; `None` where none can tell.
        advice: what to change where it will not fit.
    """

    seconds_per_step: float | None
    seconds: float | None
    peak_memory_bytes: int | None
    memory_bytes: int | None
    advice: str | None


def estimate_run(
    job: PruneJob,
    micro_batching: MicroBatching,
    *,
    choose: Callable[[], Student],
    finish: Callable[[Student], object],
    before: float,
) -> tuple[Student, Estimate]:
    """Choose masks, take a few steps and finish, all thrown away; the student comes along for its masks.

    Args:
        job: the run.
        micro_batching: how many samples go through the network at once.
        choose: makes a student with its masks.
        finish: all that follows the last step.
        before: seconds that were needed to get here.
    """
    student, choosing = _timed(choose)
    there = memory_bytes(job.inputs.device) if job.inputs else None
    predicted, fitting = _predict_step(job, student, micro_batching, there)
    if fitting is not None:
        return student, Estimate(None, None, predicted, there, fitting)
    batches = _batches(job)
    steps = []
    for step in range(PROBE_STEPS):
        begun = time.perf_counter()
        float(take_step(student, batches, step, job.settings, micro_batching).total)  # waits for the device
        steps.append(time.perf_counter() - begun)
    _, finishing = _timed(lambda: finish(student))
    settings = job.settings
    times = len(plan_transfer(settings, learned=job.config.mask == "learned").updates)
    one = statistics.median(steps[1:])
    # The first step also pays for what is set up once.
    seconds = before + times * choosing + steps[0] + (settings.steps - 1) * one + finishing
    peak = peak_memory_bytes(batches.inputs.device)
    return student, Estimate(one, seconds, peak, there, None)


def _predict_step(
    job: PruneJob, student: Student, micro_batching: MicroBatching, there: int | None
) -> tuple[int | None, str | None]:
    """The peak of a step, from two with fewer samples at once, and what to change where there is not as much."""
    whole = micro_batching.chunk or math.ceil(job.settings.batch_size / 2)
    few = max(1, whole // TRIAL_PARTS)
    assert job.inputs is not None
    peaks = []
    for chunk in (few, 2 * few):
        take_step(student, _batches(job), 0, job.settings, replace(micro_batching, chunk=min(chunk, whole)))
        peaks.append(peak_memory_bytes(job.inputs.device))
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


def _batches(job: PruneJob) -> Batches:
    assert job.inputs is not None
    return Batches(job.teacher, job.inputs, job.outputs, job.settings)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun

"""Estimate the time and memory of a transfer from a few measured steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.loop import first_student, take_step
from ntt_cli.methods.ntt.plan import plan_transfer
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.memory import memory_bytes, peak_memory_bytes
from ntt_cli.runtime.micro_batching import MicroBatching

Result = TypeVar("Result")

PROBE_STEPS = 10
TRIAL_PARTS = 4
"""The first steps take micro-batches of a quarter and of a half, so that a step that does not fit into memory is known
before it is taken."""


@dataclass(frozen=True)
class Estimate:
    """The time and memory of a whole run, as in `PrunePlan`; `None` for what is not known."""

    seconds_per_step: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    memory_bytes: int | None = None
    advice: str | None = None


def estimate_run(
    transfer: Transfer, micro_batching: MicroBatching, *, finish: Callable[[Student], object], before: float
) -> tuple[Student, Estimate]:
    """Choose masks, take a few steps and finish, without keeping the results; the student is returned for its masks.

    The work before took `before` seconds. `finish` is the work after the last step.
    """
    settings = transfer.settings
    student, choosing = _timed(lambda: first_student(transfer, micro_batching))
    there = memory_bytes(transfer.inputs.device)
    execution = transfer.execution()
    predicted, advice = _predict_step(transfer, student, micro_batching, execution, there)
    if advice is not None:
        return student, Estimate(None, None, predicted, there, advice)
    batches = Batches(transfer)
    steps = []
    for step in range(PROBE_STEPS):
        begun = time.perf_counter()
        float(take_step(student, batches, step, micro_batching, execution).total)  # waits for the device
        steps.append(time.perf_counter() - begun)
    _, finishing = _timed(lambda: finish(student))
    times = len(plan_transfer(settings, learned=transfer.fixed_masks is None).updates)
    one = statistics.median(steps[1:])
    # The first step also pays for the setup.
    seconds = before + times * choosing + steps[0] + (settings.steps - 1) * one + finishing
    return student, Estimate(one, seconds, peak_memory_bytes(transfer.inputs.device), there, None)


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


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun

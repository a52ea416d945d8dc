"""Measure how close a pruned student is to its teacher, after its checkpoint is written so that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from ntt_cli.evaluation.agreement import (
    KernelComparison,
    compare_kernels,
    measure_agreement,
    measure_kernel_distance,
    number_of_choices,
    warn_if_disconnected,
    warned_of,
)
from ntt_cli.methods.base import Pruned
from ntt_cli.pruning.job import PruneJob
from ntt_cli.results import Agreement
from ntt_cli.runs.run import Run
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.signals import reraise_as_interrupt
from ntt_cli.tasks.metrics import squares

AGREEMENT_SAMPLES = 2048
SPECTRUM_SAMPLES = 32
STEP_PASSES = 12
"""The cost of a step with a kernel term, in forward passes a sample: 3 of the teacher, 3 of the student and 6 for the
gradient."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measures:
    """The measurements; `None` for those that were not made or failed."""

    agreement: Agreement | None = None
    kernels: KernelComparison | None = None


def check_outputs(job: PruneJob, pruned: Pruned, run: Run) -> None:
    """Refuse a student whose outputs are not finite, before anything is written.

    Raises:
        DivergedError: if outputs are not finite, or too large to be squared.
    """
    if job.inputs is None:
        return
    apply, inputs = job.teacher.bind(pruned.buffers), job.inputs.some(AGREEMENT_SAMPLES)

    def finite(execution: Execution) -> bool:
        batches = inputs.in_order(min(execution.micro_batch or job.settings.batch_size, job.settings.batch_size))
        return all(bool(squares(apply(pruned.params, x)).isfinite()) for x in batches)

    try:
        with reraise_as_interrupt(run.stop), torch.no_grad():
            is_finite = run.micro_batching.run(finite)
    except Exception:  # the same error occurs again when agreement is measured, and is reported then
        return
    if not is_finite:
        raise run.checkpointer.diverged("the student", "its outputs are no longer finite")


def measure(job: PruneJob, pruned: Pruned, run: Run, *, steps: int) -> Measures:
    """Measure agreement and kernels, if there are inputs; a measurement that fails is left out, with a warning.

    Kernels are measured if the transfer matched them or `--kernels` is given. The cost is in proportion to that of
    `steps` steps.
    """
    if job.inputs is None:
        return Measures()
    inputs, batch_size = job.inputs, job.settings.batch_size
    some, few = inputs.some(AGREEMENT_SAMPLES), inputs.some(SPECTRUM_SAMPLES)
    teacher, student = job.teacher, replace(job.teacher, params=pruned.params, buffers=pruned.buffers)

    def attempt(what: str, work: Callable[[Execution], Result], *, in_parts: bool = True) -> Result | None:
        def interruptible() -> Result:
            with reraise_as_interrupt(run.stop):
                return run.micro_batching.run(work) if in_parts else work(Execution())

        return warned_of(what, interruptible, run.on_event)

    disconnected = attempt("outputs", partial(warn_if_disconnected, student, inputs, run.on_event))
    classes = None if disconnected or job.heads is None else number_of_choices(job.heads, job.loaded, inputs)
    agree = partial(measure_agreement, student, teacher, some, classes=classes, batch_size=batch_size)
    agreement = attempt("agreement with the teacher", agree)
    if not job.with_kernels:
        return Measures(agreement)
    outputs, run_passes = job.outputs, STEP_PASSES * steps * batch_size
    if agreement is not None and job.has_kernel:
        differ = partial(measure_kernel_distance, student, teacher, some, outputs=outputs, run_passes=run_passes)
        distance = attempt("distance between the kernels", partial(differ, batch_size=batch_size))
        agreement = agreement.model_copy(update={"kernel_distance": distance})
    kernels = attempt(
        "spectra of the kernels",
        lambda _: compare_kernels(student, teacher, few, outputs=outputs, run_passes=run_passes),
        in_parts=False,
    )
    return Measures(agreement, kernels)

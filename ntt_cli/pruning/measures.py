"""Measure how close a pruned student is to its teacher, after its checkpoint is written so that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ntt_cli.data.inputs import Inputs
from ntt_cli.evaluation.agreement import (
    KernelComparison,
    agreement_samples,
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

SPECTRUM_SAMPLES = 32
STEP_PASSES, LOGIT_STEP_PASSES = 12, 4
"""The cost of a step in forward passes a sample. With a kernel term it is 3 of the teacher, 3 of the student and 6 for
the gradient; without one 1, 1 and 2."""

REMEMBERED_BYTES = 2**26
"""The most memory for outputs of the student that are kept from its check until agreement is measured."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measures:
    """The measurements; `None` for those that were not made or failed."""

    agreement: Agreement | None = None
    kernels: KernelComparison | None = None


@dataclass(frozen=True)
class Checked:
    """The samples that the student was checked on, and its outputs for them, `[n, c]`, unless they need a new pass."""

    inputs: Inputs
    outputs: Tensor | None = None


def check_outputs(job: PruneJob, pruned: Pruned, run: Run, *, steps: int) -> Checked | None:
    """Refuse a student whose outputs are not finite, before anything is written; `None` if there are no inputs.

    The cost is in proportion to that of `steps` steps.

    Raises:
        DivergedError: if outputs are not finite, or too large to be squared.
    """
    if job.inputs is None:
        return None
    teacher, batch_size = job.teacher, job.settings.batch_size
    apply, passes = teacher.bind(pruned.buffers), steps * batch_size * _step_passes(job)
    inputs = job.inputs.some(agreement_samples(teacher, job.inputs, run_passes=passes))

    def finite_outputs(execution: Execution) -> list[Tensor] | None:
        """All outputs; empty if they are too many to keep, `None` if they are not finite."""
        outputs: list[Tensor] = []
        kept = 0
        for x in inputs.in_order(min(execution.micro_batch or batch_size, batch_size)):
            rows = apply(pruned.params, x)
            if not squares(rows).isfinite():
                return None
            kept += rows.nbytes
            outputs = [*outputs, rows] if kept <= REMEMBERED_BYTES else []
        return outputs

    try:
        with reraise_as_interrupt(run.stop), torch.no_grad():
            outputs = run.micro_batching.run(finite_outputs)
    except Exception:  # the same error occurs again when agreement is measured, and is reported then
        return Checked(inputs)
    if outputs is None:
        raise run.checkpointer.diverged("the student", "its outputs are no longer finite")
    repeatable = inputs.samples.changes != "always" and not inputs.samples.bundled
    return Checked(inputs, torch.cat(outputs) if outputs and repeatable else None)


def _step_passes(job: PruneJob) -> int:
    """The cost of a step, in forward passes a sample."""
    return STEP_PASSES if job.settings.objective.kernel_weight else LOGIT_STEP_PASSES


def measure(job: PruneJob, pruned: Pruned, run: Run, checked: Checked | None, *, steps: int) -> Measures:
    """Measure agreement and kernels, if there are inputs; a measurement that fails is left out, with a warning.

    Agreement is that on the samples that were checked. Kernels are measured if the transfer matched them or `--kernels`
    is given. Their cost is in proportion to that of `steps` steps.
    """
    if job.inputs is None or checked is None:
        return Measures()
    inputs, batch_size = job.inputs, job.settings.batch_size
    some, few = checked.inputs, inputs.some(SPECTRUM_SAMPLES)
    teacher, student = job.teacher, replace(job.teacher, params=pruned.params, buffers=pruned.buffers)

    def attempt(what: str, work: Callable[[Execution], Result], *, in_parts: bool = True) -> Result | None:
        def interruptible() -> Result:
            with reraise_as_interrupt(run.stop):
                return run.micro_batching.run(work) if in_parts else work(Execution())

        return warned_of(what, interruptible, run.on_event)

    ours = student if checked.outputs is None else checked.outputs
    disconnected = attempt("outputs", partial(warn_if_disconnected, student, inputs, run.on_event))
    classes = None if disconnected or job.heads is None else number_of_choices(job.heads, job.loaded, inputs)
    agree = partial(measure_agreement, ours, teacher, some, classes=classes, batch_size=batch_size)
    agreement = attempt("agreement with the teacher", agree)
    if not job.with_kernels:
        return Measures(agreement)
    outputs, run_passes = job.outputs, STEP_PASSES * steps * batch_size
    if agreement is not None and job.has_kernel:
        differ = partial(measure_kernel_distance, student, teacher, some, outputs=outputs, run_passes=run_passes)
        distance = attempt("distance between the kernels", partial(differ, batch_size=batch_size))
        agreement = agreement.model_copy(update={"kernel_distance": distance})
    if inputs.samples.bundled and not job.config.kernels:
        return Measures(agreement)  # spectra need samples; who asks for them gets a warning
    kernels = attempt(
        "spectra of the kernels",
        lambda _: compare_kernels(student, teacher, few, outputs=outputs, run_passes=run_passes),
        in_parts=False,
    )
    return Measures(agreement, kernels)

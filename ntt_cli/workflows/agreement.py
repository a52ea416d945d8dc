"""How close a student is to its teacher on unlabelled samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_cli.core.exact_kernel import exact_kernel
from ntt_cli.core.functional import Apply, Params
from ntt_cli.core.kernel_product import draw_probe, kernel_product
from ntt_cli.core.metrics import agreement
from ntt_cli.core.spectrum import alignment, effective_rank, kernel_spectrum, predicted_residuals
from ntt_cli.workflows.prepare import Inputs
from ntt_cli.workflows.reports import Agreement, KernelSummary

KERNEL_BATCH = 64
KERNEL_BATCHES = 16
SPECTRUM_ENTRIES = 2**28
"""Jacobian entries, samples × outputs × parameters, that a spectrum may cost; it bounds the samples."""

SPECTRUM_ORDER = 512
"""Rows of a kernel, samples × outputs, whose eigenvalues are taken: their cost grows with its cube."""

RESIDUAL_TIMES = 64


def measure_agreement(
    apply_student: Apply,
    student: Params,
    apply_teacher: Apply,
    teacher: Params,
    inputs: Inputs,
    *,
    classes: int,
    with_kernel: bool = True,
    batch_size: int = 256,
    chunk: int | None = None,
    seed: int = 0,
) -> Agreement:
    """Distances relative to the teacher's norms; the logits' over all samples.

    The kernel distance is `Σ‖(K_s − K_t) v‖² / Σ‖K_t v‖²` over the kernels `K` between the halves of 16 random
    batches, of 64 samples or of `batch_size` if that is less, with a Gaussian probe `v` each, or `None` without
    `with_kernel`. It takes no more memory than a step of the transfer, and puts at most `chunk` samples through a
    network at once.
    """
    gaps, norms, same, count = 0.0, 0.0, 0.0, 0
    with torch.no_grad():
        for x in inputs.in_order(min(chunk or batch_size, batch_size)):
            ours, theirs = apply_student(student, x), apply_teacher(teacher, x)
            gaps += float((ours - theirs).square().sum())
            norms += float(theirs.square().sum())
            same += float(agreement(ours.view(-1, classes), theirs.view(-1, classes))) * len(x)
            count += len(x)
    kernel_distance = None
    if with_kernel:
        size = max(2, min(len(inputs), batch_size, KERNEL_BATCH))
        kernel_distance = _kernel_distance(
            apply_student,
            student,
            apply_teacher,
            teacher,
            inputs,
            outputs=theirs.shape[1],
            size=size,
            chunk=chunk,
            seed=seed,
        )
    return Agreement(
        logit_distance=gaps / norms if norms else gaps,
        kernel_distance=kernel_distance,
        top1_agreement=same / count,
    )


def _kernel_distance(
    apply_student: Apply,
    student: Params,
    apply_teacher: Apply,
    teacher: Params,
    inputs: Inputs,
    *,
    outputs: int,
    size: int,
    chunk: int | None,
    seed: int,
) -> float:
    generator = torch.Generator().manual_seed(seed)
    gaps, norms = 0.0, 0.0
    for _ in range(KERNEL_BATCHES):
        x1, x2 = inputs.batch(torch.randperm(len(inputs), generator=generator)[:size]).chunk(2)
        probe = draw_probe((len(x2), outputs), like=next(iter(teacher.values())), generator=generator)
        ours = kernel_product(apply_student, student, x1, x2, probe, chunk=chunk).product
        theirs = kernel_product(apply_teacher, teacher, x1, x2, probe, chunk=chunk).product
        gaps += float((ours - theirs).square().sum())
        norms += float(theirs.square().sum())
    return gaps / norms if norms else gaps


@dataclass(frozen=True)
class KernelComparison:
    """The exact kernels of teacher and student on the same few samples.

    Attributes:
        summary: their alignment and effective ranks.
        tensors: `spectrum.*`, eigenvalues; `residual.*`, predicted at the times `residual.times`.
    """

    summary: KernelSummary
    tensors: dict[str, Tensor]


def compare_kernels(
    apply_student: Apply,
    student: Params,
    apply_teacher: Apply,
    teacher: Params,
    inputs: Inputs,
    *,
    outputs: int,
    memory_bytes: int = 2**30,
) -> KernelComparison:
    """Compare them on all inputs and outputs, or on as many as the network's size allows.

    Where that is on some outputs, these are not the network's kernels but blocks of them, and the summary says so.
    Derivatives take `memory_bytes` at one time.
    """
    parameters = sum(p.numel() for p in teacher.values())
    rows = max(1, min(SPECTRUM_ENTRIES // parameters, SPECTRUM_ORDER))
    # Where all outputs would leave no room for two samples, there are as many of either.
    few = outputs if 2 * outputs <= rows else min(outputs, math.isqrt(rows))
    chosen = torch.randperm(outputs, generator=torch.Generator().manual_seed(0))[:few].sort().values
    samples = min(len(inputs), max(1, rows // few))
    x = inputs.batch(torch.arange(samples))

    def part(apply: Apply) -> Apply:
        return apply if len(chosen) == outputs else lambda params, x: apply(params, x)[:, chosen]

    kernels = {
        "teacher": exact_kernel(part(apply_teacher), teacher, x, x, memory_bytes=memory_bytes),
        "student": exact_kernel(part(apply_student), student, x, x, memory_bytes=memory_bytes),
    }
    spectra = {who: kernel_spectrum(kernel) for who, kernel in kernels.items()}
    # From where nothing is learnt to where the teacher's slowest directions are, in its own time.
    largest = spectra["teacher"].max().clamp_min(torch.finfo(spectra["teacher"].dtype).tiny)
    times = torch.logspace(-2, 5, RESIDUAL_TIMES, dtype=largest.dtype).to(largest.device) / largest
    tensors = {"residual.times": times}
    for who, spectrum in spectra.items():
        tensors |= {f"spectrum.{who}": spectrum, f"residual.{who}": predicted_residuals(spectrum, times)}
    summary = KernelSummary(
        samples=samples,
        outputs=len(chosen),
        of_outputs=outputs,
        alignment=float(alignment(kernels["student"], kernels["teacher"])),
        effective_rank_teacher=float(effective_rank(spectra["teacher"])),
        effective_rank_student=float(effective_rank(spectra["student"])),
    )
    return KernelComparison(summary, tensors)

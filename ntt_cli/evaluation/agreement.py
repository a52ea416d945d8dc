"""How close a student is to its teacher on unlabelled samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ntt_cli.config import LEAVE_OUT
from ntt_cli.data.batch import Batch, halves, map_batch, tensors_of
from ntt_cli.data.bundle import Bundle
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import NttError, UsageError
from ntt_cli.kernels.backward import micro_batches
from ntt_cli.kernels.exact import PASS_FLOPS, exact_kernel, kernel_flops
from ntt_cli.kernels.product import draw_probe, kernel_vector_product
from ntt_cli.kernels.spectrum import alignment, effective_rank, kernel_spectrum, predicted_residuals
from ntt_cli.networks.flops import count_flops
from ntt_cli.networks.functional import FunctionalModel, outputs_in
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.outputs import ONLY, Heads
from ntt_cli.results import Agreement, KernelSummary
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.execution import Execution
from ntt_cli.tasks.base import Task
from ntt_cli.tasks.classification import Classification
from ntt_cli.tasks.metrics import TIED, same_first_choice, squares
from ntt_cli.tensors import Apply

Result = TypeVar("Result")

CONSTANT_SAMPLES = 64
KERNEL_BATCH = 64
KERNEL_BATCHES = 16
SPECTRUM_ENTRIES = 2**28
"""The most Jacobian entries, samples × outputs × parameters, for a spectrum; this limits the samples."""

SPECTRUM_ORDER = 512
"""The most rows of a kernel, samples × outputs: the cost of eigenvalues grows with the cube of the rows."""

RESIDUAL_TIMES = 64

SHARE = 1 / 50
"""The fraction of a run's floating-point operations that each measurement may take."""

LEAST_FLOPS = 2**34
"""The operations that a measurement may take in any case, about a second or two."""

LEAST_SAMPLES, MOST_SAMPLES = 256, 2048
"""Limits for the samples that agreement is measured on. With these, the standard error of a fraction of equal choices
is at most 3 and 1.1 points."""

DISCONNECTED = (
    "the network's outputs do not depend on its inputs: no path of weights leads from one to the other; lower"
    " --sparsity, or try another --allocation or --method"
)

PRODUCT_PASSES = 6
"""The cost of products with the kernels of two networks, in forward passes a sample: one half of the batch goes
backwards through each network, the other half in forward mode."""


def _allowance(pass_flops: int, run_passes: int) -> int:
    """The operations that a measurement may take. Seconds would not give the same results in each run."""
    return max(LEAST_FLOPS, int(SHARE * run_passes * (pass_flops + PASS_FLOPS // KERNEL_BATCH)))


def agreement_samples(teacher: FunctionalModel, inputs: Inputs, *, run_passes: int) -> int:
    """How many samples agreement is measured on after a run of so many forward passes: fewer if they take long.

    Each sample takes a pass through the teacher and one through the student.
    """
    pass_flops = count_flops(teacher.bind(), teacher.params, inputs.batch(torch.arange(1)), {}).dense
    affordable = _allowance(pass_flops, run_passes) // max(1, 2 * pass_flops)
    return max(LEAST_SAMPLES, min(MOST_SAMPLES, affordable))


def warned_of(what: str, work: Callable[[], Result], on_event: EventSink) -> Result | None:
    """The result of `work`. If it fails, warn and return `None`, because the rest of the result is still good."""
    try:
        return work()
    except Exception as error:
        reason = str(error) if isinstance(error, NttError) else f"{type(error).__name__}: {error}"
        on_event(Warned(f"{what}: not measured, {next(iter(reason.splitlines()), '')}"))
        return None


def number_of_choices(heads: Heads, loaded: LoadedModel, inputs: Inputs, task: Task | None = None) -> int | None:
    """The number of classes, if the outputs choose between classes; otherwise `None`.

    Outputs for another task than classification are no choice; without a task, those of a model file with a loss of its
    own are none unless it has `logits(outputs)`. Several heads are no choice, nor is one that has another name than
    `logits`. The last axis of maps `[c, h, w]`, and of `[h, w]` in the size of the input image, is a width and not
    classes. It is classes if `logits(outputs)` in the model's file puts them there.
    """
    shape = heads.shape
    other_loss = loaded.loss is not None and not loaded.declares_logits
    if other_loss if task is None else not isinstance(task, Classification):
        return None
    if not heads.may_be_logits or not shape or shape[-1] == 1:
        return None
    first = inputs.samples.inputs(torch.arange(1))
    if isinstance(first, Bundle):
        return None if len(shape) > 2 and not loaded.declares_logits else shape[-1]
    images = [part.shape[2:] for part in tensors_of(first)]
    is_map = len(shape) > 2 or (len(shape) == 2 and shape in images)
    return None if is_map and not loaded.declares_logits else shape[-1]


def warn_if_disconnected(
    model: FunctionalModel, inputs: Inputs, on_event: EventSink, execution: Execution = Execution()
) -> bool:
    """Whether the outputs are the same for several different inputs; if so, warn."""
    some = inputs.some(CONSTANT_SAMPLES)
    x = some.batch(torch.arange(min(len(some), CONSTANT_SAMPLES)))
    if isinstance(x, Bundle):
        return _is_constant(model, x, on_event)
    apply = model.bind()
    with torch.no_grad():
        outputs = torch.cat([apply(model.params, part) for part in micro_batches(x, execution)])
    rounding = TIED * torch.finfo(outputs.dtype).eps * outputs.abs().max()
    if not any((part != part[:1]).any() for part in tensors_of(x)) or ((outputs - outputs[:1]).abs() > rounding).any():
        return False
    on_event(Warned(DISCONNECTED))
    return True


def _is_constant(model: FunctionalModel, bundle: Bundle, on_event: EventSink) -> bool:
    """Whether the outputs of whole batches are the same when all floating inputs are others; if so, warn."""
    if not any(x.is_floating_point() for x in tensors_of(bundle)):
        return False
    moved = map_batch(lambda x: x + 1 if x.is_floating_point() else x, bundle)
    with torch.no_grad():
        if not torch.equal(model.bind()(model.params, bundle), model.bind()(model.params, moved)):
            return False
    on_event(Warned(DISCONNECTED))
    return True


class _Sums:
    """Sums of squares, of each head of a network by itself."""

    def __init__(self, model: FunctionalModel) -> None:
        self._heads = model.heads
        self.sums = dict.fromkeys(model.heads.shapes if model.heads else [ONLY], 0.0)

    def add(self, rows: Float[Tensor, "n c"], x: Batch) -> None:
        """Add the squares of these outputs of `x`."""
        parts = {next(iter(self.sums)): rows}
        if self._heads and len(self.sums) > 1:
            sizes = x.sizes if isinstance(x, Bundle) and x.sizes else self._heads.sizes
            parts = dict(zip(self.sums, rows.split(sizes, dim=1), strict=True))
        for name, part in parts.items():
            self.sums[name] += float(squares(part))

    def each_over(self, norms: _Sums) -> dict[str, float]:
        """Each sum, divided by that of the same head in `norms` unless this is zero."""
        return {name: gap / norms.sums[name] if norms.sums[name] else gap for name, gap in self.sums.items()}

    def over(self, norms: _Sums) -> float:
        """The mean of `each_over`."""
        return statistics.fmean(self.each_over(norms).values())


def _rows(model: FunctionalModel, outputs: Float[Tensor, "n c"], x: Batch) -> Float[Tensor, "r d"]:
    """The outputs of each sample; of whole batches, those along the last axis of the only head, without padding."""
    if not isinstance(x, Bundle) or model.heads is None or len(model.heads.shapes) > 1 or not model.heads.shape:
        return outputs
    rows = outputs.reshape(-1, model.heads.shape[-1]) if outputs.shape[1] % model.heads.shape[-1] == 0 else outputs
    counted = rows.any(dim=1)
    return rows[counted] if counted.any() else rows


def measure_agreement(
    student: FunctionalModel | Float[Tensor, "n c"],
    teacher: FunctionalModel,
    inputs: Inputs,
    execution: Execution = Execution(),
    *,
    classes: int | None,
    batch_size: int = 256,
) -> Agreement:
    """The distance of the outputs, relative to the teacher's norm, and with `classes` how often both choose the same.

    With several heads, the distance is the mean of each head's, relative to the teacher's norm of that head. The
    student is a network, or its outputs for all inputs.
    """
    gaps, norms, same, decided, cosines, rows = _Sums(teacher), _Sums(teacher), 0, 0, 0.0, 0
    apply_teacher, done = teacher.bind(), 0
    with torch.no_grad():
        for x in inputs.in_order(min(execution.micro_batch or batch_size, batch_size)):
            x = teacher.sized(x)
            theirs = apply_teacher(teacher.params, x)
            if isinstance(student, Tensor):
                ours = student[done : done + len(theirs)]
                done += len(theirs)
            else:
                ours = student.bind()(student.params, x)
            gaps.add(ours - theirs, x)
            norms.add(theirs, x)
            ours, theirs = (_rows(teacher, outputs, x) for outputs in (ours, theirs))
            rows += len(ours)
            cosines += float(cosine_similarity(ours.double(), theirs.double(), dim=1).sum())
            if classes is not None:
                both = same_first_choice(ours.reshape(-1, classes), theirs.reshape(-1, classes))
                same, decided = same + both[0], decided + both[1]
    return Agreement(
        logit_distance=gaps.over(norms),
        heads=gaps.each_over(norms) if len(gaps.sums) > 1 else None,
        kernel_distance=None,
        top1_agreement=same / decided if decided else None,
        cosine=cosines / rows,
        relative_error=math.sqrt(gaps.over(norms)),
    )


def measure_kernel_distance(
    student: FunctionalModel,
    teacher: FunctionalModel,
    inputs: Inputs,
    execution: Execution = Execution(),
    *,
    outputs: int,
    run_passes: int = 0,
    batch_size: int = 256,
) -> float:
    """`Σ‖(K_s − K_t) v‖² / Σ‖K_t v‖²` with a Gaussian probe `v` for each of some random batches.

    With several heads, it is the mean of these distances over the rows of each head.

    `K` are the kernels between the halves of a batch. There are 16 batches of 64 samples, or of `batch_size` if that is
    less. The cost is limited to a fraction of a run of `run_passes` forward passes; if necessary there are fewer
    batches, and then smaller ones. The measurement takes no more memory than a step of the transfer.

    Raises:
        FloatingPointError: if the distance is not finite.
    """
    pass_flops = count_flops(teacher.bind(), teacher.params, inputs.batch(torch.arange(1)), {}).dense
    most = max(2, _allowance(pass_flops, run_passes) // max(1, PRODUCT_PASSES * pass_flops))
    size = max(2, min(len(inputs), batch_size, KERNEL_BATCH, most))
    generator = torch.Generator().manual_seed(0)
    gaps, norms = _Sums(teacher), _Sums(teacher)
    for _ in range(min(KERNEL_BATCHES, most // size)):
        drawn = torch.randperm(len(inputs), generator=generator)[:size]
        drawn = drawn.repeat(2) if len(drawn) < 2 else drawn  # a single graph
        x1, x2 = halves(teacher.sized(inputs.batch(drawn)))
        width = outputs_in(x2, outputs)
        probe = draw_probe((size // 2, width), like=next(iter(teacher.params.values())), generator=generator)
        ours, theirs = (
            kernel_vector_product(model.bind(), model.params, x1, x2, probe, execution=execution).product
            for model in (student, teacher)
        )
        gaps.add(ours - theirs, x1)
        norms.add(theirs, x1)
    distance = gaps.over(norms)
    if not math.isfinite(distance):
        raise FloatingPointError("it is not finite")
    return distance


@dataclass(frozen=True)
class KernelComparison:
    """The exact kernels of teacher and student on the same few samples: their summary, and tensors for the report."""

    summary: KernelSummary
    tensors: dict[str, Tensor]
    """`spectrum.*`, eigenvalues; `residual.*`, predicted at the times `residual.times`."""


def compare_kernels(
    student: FunctionalModel, teacher: FunctionalModel, inputs: Inputs, *, outputs: int, run_passes: int = 0
) -> KernelComparison:
    """Compare the kernels on all inputs and outputs, or on as many as the network's size allows.

    The cost is limited to a fraction of a run of `run_passes` forward passes, but some operations are always allowed.
    With only some of the outputs, the results are for blocks of the kernels, and the summary says so.

    Raises:
        FloatingPointError: if an eigenvalue is not finite.
        UsageError: if batches cannot be divided.
    """
    if inputs.samples.bundled:
        raise UsageError("--kernels", "takes samples, not batches that cannot be divided", hint=LEAVE_OUT)
    apply, params = teacher.bind(), teacher.params
    parameters = sum(p.numel() for p in params.values())
    rows = max(1, min(SPECTRUM_ENTRIES // parameters, SPECTRUM_ORDER))
    first = inputs.batch(torch.arange(1))
    allowance = _allowance(count_flops(apply, params, first, {}).dense, run_passes)
    while True:
        # If all outputs of two samples are too many rows, take as many outputs as samples.
        few = outputs if 2 * outputs <= rows else min(outputs, math.isqrt(rows))
        samples = min(len(inputs), max(1, rows // few))
        if rows == 1 or 2 * kernel_flops(apply, params, first, samples=samples, outputs=few) <= allowance:
            break
        rows //= 2
    chosen = torch.randperm(outputs, generator=torch.Generator().manual_seed(0))[:few].sort().values
    x = inputs.batch(torch.arange(samples))

    def part(apply: Apply) -> Apply:
        return apply if len(chosen) == outputs else lambda params, x: apply(params, x)[:, chosen]

    networks = {"teacher": teacher, "student": student}
    kernels = {who: exact_kernel(part(model.bind()), model.params, x, x) for who, model in networks.items()}
    spectra = {who: kernel_spectrum(kernel) for who, kernel in kernels.items()}
    if not all(spectrum.isfinite().all() for spectrum in spectra.values()):
        raise FloatingPointError("they are not finite")
    # From a time when nothing is learnt to a time when the teacher's slowest directions are, in its own time scale.
    largest = spectra["teacher"].max().clamp_min(torch.finfo(spectra["teacher"].dtype).tiny)
    times = torch.logspace(-2, 5, RESIDUAL_TIMES, dtype=largest.dtype).to(largest.device) / largest
    tensors = {"residual.times": times}
    for who, spectrum in spectra.items():
        tensors |= {f"spectrum.{who}": spectrum, f"residual.{who}": predicted_residuals(spectrum, times)}
    none_is_zero = all(kernel.any() for kernel in kernels.values())
    summary = KernelSummary(
        samples=samples,
        outputs=len(chosen),
        of_outputs=outputs,
        alignment=float(alignment(kernels["student"], kernels["teacher"])) if none_is_zero else None,
        effective_rank_teacher=_rank(spectra["teacher"]),
        effective_rank_student=_rank(spectra["student"]),
    )
    return KernelComparison(summary, tensors)


def _rank(spectrum: Tensor) -> float | None:
    """The effective rank; a kernel of zeros has none."""
    return float(effective_rank(spectrum)) if (spectrum > 0).any() else None

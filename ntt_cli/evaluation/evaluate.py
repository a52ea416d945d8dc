"""`ntt evaluate`: accuracy if there are labels, agreement with a teacher if there is one, and the cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ntt_cli.config import LEAVE_OUT, EvaluateConfig, as_typed
from ntt_cli.data.batch import parts_of
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.labels import by_name, warn_of_order
from ntt_cli.errors import CheckpointError, DataError, UsageError
from ntt_cli.evaluation.agreement import (
    measure_agreement,
    measure_kernel_distance,
    number_of_choices,
    warn_if_disconnected,
    warned_of,
)
from ntt_cli.evaluation.gates import BYTES, DROP, FLOPS, SPARSITY, gates_of, judged, require_measured
from ntt_cli.files.junit import check_junit, write_junit
from ntt_cli.files.metadata import describe_inputs
from ntt_cli.files.shards import find_weights
from ntt_cli.kernels.checks import find_kernel
from ntt_cli.masks.masks import count_kept, without_biases
from ntt_cli.networks.checks import check_forward, require_samples
from ntt_cli.networks.flops import count_flops
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import (
    Weights,
    describe_sparse_teacher,
    fixed_masks,
    open_weights,
    warn_of_filled_zeros,
)
from ntt_cli.networks.normalisation import known_normalisation, open_inputs
from ntt_cli.networks.outputs import Heads
from ntt_cli.networks.prepare import to_functional
from ntt_cli.networks.targets import call_to_measure
from ntt_cli.results import Agreement, EvaluateReport
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import Evaluated, EventSink, Warned
from ntt_cli.runtime.machine import pick_device
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do
from ntt_cli.tasks.base import Measurement, Task
from ntt_cli.tasks.choose import task_of
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tasks.own import try_once
from ntt_cli.tensors import Masks

FEW = 16
"""Samples that show which metrics a task has."""

OF_AGREEMENT = Agreement.model_fields.keys() - {"heads"}


@dataclass(frozen=True)
class EvaluateJob:
    """An evaluation, ready to start.

    Attributes:
        loaded: the network as its source built it.
        masks: of the weights whose zeros count as pruned, on the CPU.
        model: the network, on its device.
        inputs: with labels numbered by the network's classes, if there are labels.
        heads: the outputs that count.
        task: what the labels are for; `None` if there are none.
    """

    config: EvaluateConfig
    sources: Sources
    loaded: LoadedModel
    weights: Weights
    masks: Masks
    model: FunctionalModel
    inputs: Inputs
    heads: Heads
    task: Task | None


def prepare(
    config: EvaluateConfig, on_event: EventSink, class_names: tuple[str, ...] | None, sources: Sources
) -> EvaluateJob:
    """Find and check everything that an evaluation needs, before any work.

    Raises:
        DataError: if there are neither labels nor a teacher to compare with.
        UsageError: if an option would have no effect.
    """
    device = pick_device(config.device)
    loaded = sources.load_model(config, seed=config.seed)
    weights = open_weights(sources.weights_of(config.checkpoint), loaded, on_event, options=config)
    masks = fixed_masks(weights, loaded.module, config, on_event)
    model = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    model = replace(model, output_mask=loaded.output_mask)
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    samples = sources.load_samples(config, loaded, split=config.split)
    inputs = open_inputs(samples, device=device, known=known, on_event=on_event)
    if samples.normalised and config.mean is not None:
        raise UsageError("--mean", f"does nothing to {samples.spec}", hint="leave out --mean and --std")
    if samples.split is None and config.gives("split"):
        what = f"the data {samples.spec} is not divided into parts"
        raise UsageError(as_typed(config, "split"), what, hint=LEAVE_OUT)
    require_samples(inputs, 2 if config.kernels and not samples.successive else 1)  # a kernel needs two samples
    heads = check_forward(model, inputs, on_event, where=config.model)
    loaded, model = replace(loaded, select_outputs=heads), replace(model, select_outputs=heads)
    known_names = class_names or weights.class_names
    chosen = task_of(config.task, loaded, inputs, on_event, heads=heads, own=sources.task)
    if chosen.has_classes:
        inputs = replace(inputs, samples=by_name(samples, known_names, on_event, purpose="accuracy is over"))
    task = None if inputs.samples.labels is None else chosen
    if task is not None or config.min_accuracy is not None or config.task != "auto":
        chosen.check(inputs, on_event, shape=heads.shape, purpose=f"{_measured(chosen)} measured with them")
        try_once(chosen, loaded, inputs, trains=False)
        if chosen.has_classes and known_names is None:
            warn_of_order(inputs.samples, on_event, outputs=(heads.shape or (1,))[-1])
    elif config.teacher is None:
        folder = inputs.samples.only_folder
        why = f" (its one sub-folder, {folder}, is no class that the network is known to have)" if folder else ""
        what = f"has no labels{why}, and there is no teacher to compare with"
        hint = "name labelled data with --data, or the dense weights with --teacher"
        raise DataError(samples.spec, what, hint=hint)
    job = EvaluateJob(config, sources, loaded, weights, masks, model, inputs, heads, task)
    _check_gates(job)
    return job


def _measured(task: Task) -> str:
    return "accuracy is" if task is CLASSIFICATION else "metrics are"


@global_draws_apart()  # some networks draw random numbers in evaluation mode; results must repeat
def run(
    config: EvaluateConfig, on_event: EventSink, class_names: tuple[str, ...] | None = None, sources: Sources = AS_NAMED
) -> EvaluateReport:
    """Evaluate a network; `class_names` are of its outputs, by default those that its checkpoint records.

    Raises:
        NttError: if an input is unusable, or an option would have no effect.
    """
    seed_as_users_do(config.seed)
    job = prepare(config, on_event, class_names, sources)
    model, inputs = job.model, job.inputs
    agreement = _agreement(job, on_event)
    by_class, metrics = (None, {}) if job.task is None else _measure(job, job.task, on_event)
    masks = {name: mask.to(inputs.device) for name, mask in job.masks.items()}
    counted = without_biases(masks)
    kept, prunable = count_kept(counted), sum(m.numel() for m in counted.values())
    warn_of_filled_zeros(model, inputs.batch(torch.arange(1)), list(masks), on_event)
    flops = count_flops(model.bind(), model.params, inputs.batch(torch.arange(1)), masks)
    value = None if job.task is None else metrics.get(job.task.headline)
    baseline, file_bytes = _baseline(job, on_event), _file_bytes(job)
    metrics |= {} if agreement is None else agreement.metrics
    sparsity = 1 - kept / prunable if prunable else 0.0
    drop = _drop(job.task, value, baseline)
    gates = judged(gates_of(config), metrics, {BYTES: file_bytes, FLOPS: flops.sparse, SPARSITY: sparsity, DROP: drop})
    if config.junit is not None:
        write_junit(Path(config.junit), config.checkpoint, gates)
    missed = [gate.in_words for gate in gates if not gate.passed]
    return EvaluateReport(
        checkpoint=config.checkpoint,
        model=config.model,
        data=inputs.samples.spec,
        samples=len(inputs),
        accuracy=metrics.get("accuracy"),
        top5=metrics.get("top5"),
        loss=metrics.get("loss"),
        accuracy_by_class=by_class,
        agreement=agreement,
        parameters=sum(p.numel() for p in model.params.values()),
        nonzero_parameters=sum(int(p.count_nonzero()) for p in model.params.values()),
        prunable=prunable,
        kept=kept,
        density=kept / prunable if prunable else None,
        flops_dense=flops.dense,
        flops_sparse=flops.sparse,
        file_bytes=file_bytes,
        sparse_bytes=_sparse_bytes(model, masks),
        min_accuracy=config.min_accuracy,
        passed=not missed if config.gated else None,
        task=None if job.task is None else job.task.name,
        metric=None if job.task is None else job.task.headline,
        higher_is_better=None if job.task is None else job.task.higher_is_better,
        metrics=metrics,
        missed=missed,
        gates=gates,
        baseline=baseline,
    )


def _check_gates(job: EvaluateJob) -> None:
    """Refuse a gate before any work: for metrics, by those of a few samples.

    Raises:
        UsageError: if its measure is neither among these, nor one that few samples may leave undefined.
    """
    config, gates = job.config, gates_of(job.config)
    if config.junit is not None:
        check_junit(Path(config.junit))
    if config.max_bytes is not None and _file_bytes(job) is None:
        what = "is about a file, and the network is in memory"
        raise UsageError(as_typed(config, "max_bytes"), what, hint="name the checkpoint, or leave it out")
    if config.max_drop is not None and job.task is None:
        what = f"compares a task's metric, and {job.inputs.samples.spec} has no labels"
        raise UsageError(as_typed(config, "max_drop"), what, hint="name labelled data with --data")
    if not any(gate.of_metrics for gate in gates):
        return
    known = set(OF_AGREEMENT) if config.teacher is not None else set()
    if job.task is not None:
        few = replace(job.inputs, samples=job.inputs.samples.subset(torch.arange(min(len(job.inputs), FEW))))
        known |= _measure(replace(job, inputs=few), job.task, lambda _: None)[1].keys() | job.task.may_lack
    require_measured(gates, known)


def _file_bytes(job: EvaluateJob) -> int | None:
    """Of the checkpoint on disk; `None` for a network in memory."""
    path = job.sources.weights_of(job.config.checkpoint)
    return find_weights(Path(path)).bytes if isinstance(path, str) else None


def _baseline(job: EvaluateJob, on_event: EventSink) -> float | None:
    """The headline metric of the weights that `--baseline` names, on the same samples, normalised as they need it.

    Raises:
        CheckpointError: if they cannot be read, or have other classes.
    """
    config = job.config
    if config.baseline is None or job.task is None:
        return None
    weights = open_weights(config.baseline, job.loaded, on_event, role="baseline")
    if None not in (weights.class_names, job.weights.class_names) and weights.class_names != job.weights.class_names:
        what = f"learnt other classes than {config.checkpoint}, or in another order"
        raise CheckpointError(config.baseline, what, hint="name weights that were trained on the same classes")
    known = known_normalisation(config, job.loaded, weights.checkpoint, lambda _: None)
    inputs = open_inputs(job.inputs.samples, device=job.inputs.device, known=known, on_event=lambda _: None)
    model = to_functional(job.loaded.module, inputs.device, lambda _: None, select_outputs=job.heads)
    model = replace(model, output_mask=job.loaded.output_mask)
    return _measure(replace(job, model=model, inputs=inputs), job.task, on_event)[1].get(job.task.headline)


def _drop(task: Task | None, value: float | None, baseline: float | None) -> float | None:
    """By how much a metric is worse than the baseline's, in the metric's own units."""
    if task is None or value is None or baseline is None:
        return None
    return baseline - value if task.higher_is_better else value - baseline


def _agreement(job: EvaluateJob, on_event: EventSink) -> Agreement | None:
    config, inputs = job.config, job.inputs
    classes = number_of_choices(job.heads, job.loaded, inputs, job.task)
    if warn_if_disconnected(job.model, inputs, on_event):
        classes = None
    if config.teacher is None:
        return None
    weights = open_weights(job.sources.teacher or config.teacher, job.loaded, on_event, role="teacher")
    describe_sparse_teacher(weights, on_event)
    _compare_records(config, job.weights, weights, inputs, on_event)
    # Without events: the notes about the network have been given.
    teacher = to_functional(job.loaded.module, inputs.device, lambda _: None, select_outputs=job.heads)
    teacher = replace(teacher, output_mask=job.loaded.output_mask)
    agreement = measure_agreement(job.model, teacher, inputs, classes=classes, batch_size=config.batch_size)
    outputs, where = sum(job.heads.sizes), config.model
    if not config.kernels or not find_kernel(teacher, inputs, on_event, outputs=outputs, matched=False, where=where):
        return agreement
    distance = warned_of(
        "distance between the kernels",
        lambda: measure_kernel_distance(job.model, teacher, inputs, outputs=outputs, batch_size=config.batch_size),
        on_event,
    )
    return agreement.model_copy(update={"kernel_distance": distance})


def _compare_records(
    config: EvaluateConfig, student: Weights, teacher: Weights, inputs: Inputs, on_event: EventSink
) -> None:
    """Warn if the teacher was made for other inputs or classes than those it is compared on."""
    made_with = teacher.checkpoint.normalisation if teacher.checkpoint else None
    if made_with is not None and not inputs.samples.normalised and made_with.by != inputs.mean_std:
        what = f"{config.teacher} was made with inputs {describe_inputs(made_with.by)}"
        on_event(Warned(f"{what}; it sees the same as {config.checkpoint}, {describe_inputs(inputs.mean_std)}"))
    if None not in (student.class_names, teacher.class_names) and student.class_names != teacher.class_names:
        both = f"{config.teacher} and {config.checkpoint}"
        on_event(Warned(f"{both} learnt other classes, or in another order: their outputs are compared by number"))


def _measure(
    job: EvaluateJob, task: Task, on_event: EventSink
) -> tuple[dict[str, float | None] | None, dict[str, float]]:
    """For classification the accuracy of each class, and the task's metrics."""
    inputs, measurement = job.inputs, Measurement(task)
    with torch.no_grad():
        for indices in inputs.indices(job.config.batch_size):
            for x, targets in zip(*map(parts_of, inputs.labelled(indices)), strict=True):
                returned = call_to_measure(job.model.module, job.model.run, x, targets, job.heads)
                outputs = task.outputs_of(returned, job.heads)
                measurement.add(*task.counted(outputs, targets, x, job.loaded.output_mask))
            done = int(indices[-1]) + 1
            on_event(Evaluated(done, max(done, len(inputs))))
    metrics = measurement.results()
    if task is not CLASSIFICATION:
        return None, metrics
    labels, right = measurement.sums["labels"].tolist(), measurement.sums["right"].tolist()
    per_class = [hits / count if count else None for hits, count in zip(right, labels, strict=True)]
    names = inputs.samples.class_names or tuple(map(str, range(len(labels))))
    return dict(zip(names, per_class, strict=False)), metrics


def _sparse_bytes(model: FunctionalModel, masks: Masks) -> int:
    """The size with pruned weights as kept values and one mask bit an entry; all else at its full size."""
    values = model.params | model.buffers
    sizes = {name: model.dtypes.get(name, value.dtype).itemsize for name, value in values.items()}
    total = sum(value.numel() * sizes[name] for name, value in values.items())
    for name, mask in masks.items():
        total += int(mask.sum()) * sizes[name] + math.ceil(mask.numel() / 8) - mask.numel() * sizes[name]
    return total

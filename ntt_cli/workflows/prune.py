"""`ntt prune`: a dense teacher becomes a sparse student, without labels."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ntt_cli.config import PruneConfig, recorded
from ntt_cli.core.allocation import total_to_keep
from ntt_cli.core.batch_norm import has_untrained_statistics
from ntt_cli.core.functional import FunctionalModel, Masks, Params
from ntt_cli.core.masks import apply_masks, count_kept
from ntt_cli.core.scores import magnitude_scores, random_scores
from ntt_cli.core.standardise import Standardisation
from ntt_cli.core.transfer import Student
from ntt_cli.errors import DivergedError, UsageError
from ntt_cli.io.checkpoint import Checkpoint, load_into, read_checkpoint, write_checkpoint
from ntt_cli.io.files import check_outputs, report_path
from ntt_cli.io.memory import peak_memory_bytes
from ntt_cli.io.models import LoadedModel, load_model
from ntt_cli.io.report import history_tensors, mask_tensors, write_report
from ntt_cli.workflows.agreement import measure_agreement, spectrum_of
from ntt_cli.workflows.events import EventSink
from ntt_cli.workflows.prepare import (
    Inputs,
    check_forward,
    check_kernel,
    known_standardisation,
    open_inputs,
    pick_device,
    pick_prunable,
    require_samples,
    take_apart,
)
from ntt_cli.workflows.reports import LayerSummary, PrunePlan, PruneReport
from ntt_cli.workflows.settings import TransferSettings, settle
from ntt_cli.workflows.threads import threads_for
from ntt_cli.workflows.transfer import (
    choose,
    estimate_buffers,
    first_student,
    run_transfer,
    take_step,
)

AGREEMENT_SAMPLES = 2048
SPECTRUM_SAMPLES = 32
PROBE_STEPS = 10


@dataclass(frozen=True)
class Task:
    """A prune run, ready to start.

    Attributes:
        config: as the user gave it.
        loaded: the model's source.
        teacher: calibrated, on its device.
        inputs: unlabelled; `None` where the method needs none and none were named.
        standardisation: how the network's inputs are standardised, where that is known.
        names: the prunable weights.
        outputs: number of logits; 0 without inputs.
        settings: of the transfer, every default settled.
    """

    config: PruneConfig
    loaded: LoadedModel
    teacher: FunctionalModel
    inputs: Inputs | None
    standardisation: Standardisation | None
    names: tuple[str, ...]
    outputs: int
    settings: TransferSettings

    @property
    def sizes(self) -> dict[str, int]:
        """Entries of each prunable weight."""
        return {name: self.teacher.params[name].numel() for name in self.names}


@dataclass(frozen=True)
class _Student:
    params: Params
    buffers: Params
    masks: Masks
    history: dict[str, Tensor]


def prepare(config: PruneConfig, on_event: EventSink) -> Task:
    """Find and check everything that a run needs, before any work."""
    device = pick_device(config.device)
    loaded = load_model(config, seed=config.seed)
    weights = None
    if config.weights is not None:
        weights = read_checkpoint(Path(config.weights))
        load_into(loaded.module, weights)
    teacher = take_apart(loaded.module, device, on_event)
    inputs = _open(config, loaded, weights, device)
    outputs = check_forward(teacher, inputs, where=config.model) if inputs else 0
    names = pick_prunable(teacher, inputs, exclude=config.exclude, where=config.model)
    if inputs:
        check_kernel(teacher, inputs, outputs=outputs, trainable=config.method == "ntt", where=config.model)
    _check_sparsity(config.sparsity, {name: teacher.params[name].numel() for name in names})
    if inputs is not None and has_untrained_statistics(teacher):
        teacher = replace(teacher, buffers=estimate_buffers(teacher, teacher.params, inputs))
    standardisation = inputs.standardisation if inputs else known_standardisation(weights)
    settings = settle(config, teacher, len(inputs) if inputs else 0)
    return Task(config, loaded, teacher, inputs, standardisation, names, outputs, settings)


def run(config: PruneConfig, on_event: EventSink) -> PruneReport:
    """Prune, and write the checkpoint and then its report.

    Raises:
        NttError: if the input is unusable, the numbers diverge or the output cannot be written.
    """
    output = Path(config.output)
    check_outputs(output, force=config.force)
    task = prepare(config, on_event)
    student = _prune(task, on_event)
    report = _report(task, student, output)
    write_checkpoint(
        output,
        task.teacher.state_dict(student.params, student.buffers),
        student.masks,
        kind="prune",
        model=task.loaded,
        config=recorded(config) | task.settings.recorded(),
        standardisation=task.standardisation,
    )
    write_report(report_path(output), _report_tensors(task, student), kind="prune report", summary=report)
    return report


def plan(config: PruneConfig, on_event: EventSink) -> PrunePlan:
    """What `run` would do, with time and memory from a few real steps whose result is thrown away.

    Layer counts are those at the first step; by saliency they move with the student.
    """
    task = prepare(config, on_event)
    seconds, peak = None, None
    if config.method == "ntt" and task.inputs is not None and config.sparsity > 0:
        student = first_student(task.teacher, task.inputs, task.names, task.settings)
        masks = student.masks
        seconds = _seconds_per_step(task, task.inputs, student)
        peak = peak_memory_bytes(task.inputs.device)
    else:
        masks = _one_shot_masks(task)
    steps = task.settings.steps if seconds is not None else 0
    return PrunePlan(
        model=config.model,
        parameters=sum(p.numel() for p in task.teacher.params.values()),
        prunable=sum(task.sizes.values()),
        kept=count_kept(masks),
        steps=steps,
        seconds_per_step=seconds,
        seconds=seconds and seconds * steps,
        peak_memory_bytes=peak,
        layers=_layers({name: int(mask.sum()) for name, mask in masks.items()}, task),
    )


def _open(config: PruneConfig, loaded: LoadedModel, weights: Checkpoint | None, device: torch.device) -> Inputs | None:
    if config.method != "ntt" and config.data is None and loaded.data is None:
        return None
    known = known_standardisation(weights)
    inputs = open_inputs(config, loaded, split="train", device=device, known=known)
    inputs = replace(inputs, samples=inputs.samples.without_labels())
    require_samples(inputs, 2)
    return inputs


def _check_sparsity(sparsity: float, sizes: dict[str, int]) -> None:
    try:
        total_to_keep(sizes, density=1 - sparsity)
    except ValueError as error:
        raise UsageError(
            f"--sparsity {sparsity}",
            f"is too high for this model: {error}",
            hint=f"use at most {math.floor((1 - len(sizes) / sum(sizes.values())) * 1e6) / 1e6:g}",
        ) from error


def _prune(task: Task, on_event: EventSink) -> _Student:
    if task.config.method == "ntt" and task.config.sparsity > 0:
        assert task.inputs is not None
        with threads_for(task.teacher, task.inputs):
            moved = run_transfer(
                task.teacher, task.inputs, task.names, outputs=task.outputs, settings=task.settings, on_event=on_event
            )
        return _Student(moved.params, moved.buffers, moved.masks, moved.history)
    masks = _one_shot_masks(task)
    masked = apply_masks(task.teacher.params, masks)
    buffers = task.teacher.buffers
    if task.inputs is not None and task.config.sparsity > 0:
        buffers = estimate_buffers(task.teacher, masked, task.inputs)
    return _Student(masked, buffers, masks, {})


def _one_shot_masks(task: Task) -> Masks:
    params = task.teacher.params
    if task.config.method == "random":
        generator = torch.Generator().manual_seed(task.config.seed)
        scores = random_scores(params, task.names, generator=generator)
    else:
        scores = magnitude_scores(params, task.names)
    return choose(scores, task.settings.allocation, task.settings.density)


def _report(task: Task, student: _Student, output: Path) -> PruneReport:
    kept, prunable = count_kept(student.masks), sum(task.sizes.values())
    agreement = None
    if task.inputs is not None:
        agreement = measure_agreement(
            task.teacher.bind(student.buffers),
            student.params,
            task.teacher.bind(),
            task.teacher.params,
            task.inputs.some(AGREEMENT_SAMPLES),
        )
        if not all(map(math.isfinite, agreement.model_dump().values())):
            raise DivergedError(
                "the student",
                "its logits or its kernel are no longer finite",
                hint="try a smaller --learning-rate; nothing was written",
            )
    return PruneReport(
        output=str(output),
        report=str(report_path(output)),
        model=task.config.model,
        method=task.config.method,
        teacher=task.config.weights or f"random weights, seed {task.config.seed}",
        data=task.inputs.samples.spec if task.inputs else None,
        steps=task.settings.steps if student.history else 0,
        parameters=sum(p.numel() for p in task.teacher.params.values()),
        prunable=prunable,
        kept=kept,
        sparsity=1 - kept / prunable,
        density=kept / prunable,
        agreement=agreement,
        layers=_layers({name: int(mask.sum()) for name, mask in student.masks.items()}, task),
    )


def _seconds_per_step(task: Task, inputs: Inputs, student: Student) -> float:
    generator = torch.Generator().manual_seed(task.config.seed)
    seconds = []
    for _ in range(PROBE_STEPS):
        begun = time.perf_counter()
        loss = take_step(
            task.teacher, student, inputs, outputs=task.outputs, settings=task.settings, generator=generator
        )
        float(loss.total)  # waits for the device
        seconds.append(time.perf_counter() - begun)
    # The first step also pays for what torch sets up once.
    return statistics.median(seconds[1:])


def _layers(kept: dict[str, int], task: Task) -> list[LayerSummary]:
    return [
        LayerSummary(
            name=name,
            shape=tuple(task.teacher.params[name].shape),
            kept=kept[name],
            size=size,
            density=kept[name] / size,
        )
        for name, size in task.sizes.items()
    ]


def _report_tensors(task: Task, student: _Student) -> dict[str, Tensor]:
    tensors = mask_tensors(student.masks) | history_tensors(student.history)
    for name, mask in student.masks.items():
        tensors[f"layer.{name}.density"] = mask.double().mean()
        tensors[f"layer.{name}.kept"] = mask.sum()
        tensors[f"layer.{name}.norm"] = student.params[name].norm()
    if task.inputs is not None:
        for who, apply, params in (
            ("teacher", task.teacher.bind(), task.teacher.params),
            ("student", task.teacher.bind(student.buffers), student.params),
        ):
            tensors[f"spectrum.{who}"] = spectrum_of(
                apply, params, task.inputs.some(SPECTRUM_SAMPLES), outputs=task.outputs
            )
    return tensors

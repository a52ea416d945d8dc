"""Prepare a fine-tuning run: find and check its inputs and resolve its defaults."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntt_cli.config import LEAVE_OUT, FinetuneConfig, as_typed
from ntt_cli.config.pattern import Groups
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.labels import by_name_or_anew, warn_of_order
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.metadata import ChannelRecord
from ntt_cli.masks.masks import count_kept, without_biases
from ntt_cli.networks.checks import check_forward, check_training, require_samples
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import fixed_masks, open_weights
from ntt_cli.networks.normalisation import known_normalisation, open_inputs
from ntt_cli.networks.precision import Dtypes
from ntt_cli.networks.prepare import takes_channels_last, to_functional
from ntt_cli.networks.targets import takes_targets
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink, Noted
from ntt_cli.runtime.machine import pick_device
from ntt_cli.runtime.process_group import this_process_group
from ntt_cli.tasks.base import Task
from ntt_cli.tasks.choose import task_of
from ntt_cli.tasks.classification import Classification, PixelClassification, balanced_weights
from ntt_cli.tasks.own import try_once
from ntt_cli.tensors import Masks
from ntt_cli.training.step import SparseModule, default_learning_rate, make_optimiser, training_step

PROBE_STEPS = 6


@dataclass(frozen=True)
class FinetuneJob:
    """A fine-tuning run, ready to start.

    Attributes:
        loaded: the model; its module is on the device and has the checkpoint's weights.
        masks: empty for a dense network.
        groups: of the masked weights that have a pattern.
        training: samples to learn from.
        validation: samples to choose the epoch by; may be empty.
        learning_rate: the peak rate.
        density: kept fraction of the masked weights.
        task: the loss, and the metric that chooses the epoch.
        dtypes: of the network's state dict, where the network computes in others.
        channels: what the checkpoint says of whole channels that are gone; `None` if none are.
    """

    config: FinetuneConfig
    loaded: LoadedModel
    masks: Masks
    groups: Mapping[str, Groups]
    training: Inputs
    validation: Inputs
    learning_rate: float
    density: float
    task: Task
    dtypes: Dtypes
    channels: Mapping[str, ChannelRecord] | None


def prepare(config: FinetuneConfig, on_event: EventSink, sources: Sources = AS_NAMED) -> FinetuneJob:
    """Find and check everything that a run needs, before any work.

    Raises:
        UsageError: if an option would have no effect.
    """
    device = pick_device(config.device)
    loaded = sources.load_model(config, seed=config.seed)
    weights = open_weights(sources.weights_of(config.checkpoint), loaded, on_event, options=config)
    masks = fixed_masks(weights, loaded.module, config, on_event)
    model = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    model = replace(model, output_mask=loaded.output_mask)
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    samples = sources.load_samples(config, loaded, split="train")
    inputs = open_inputs(samples, device=device, known=known, on_event=on_event)
    require_samples(inputs, 1 if samples.successive else 2)
    heads = check_forward(model, inputs, on_event, where=config.model)
    shape = heads.shape
    loaded, model = replace(loaded, select_outputs=heads), replace(model, select_outputs=heads)
    class_names = weights.class_names
    task = task_of(config.task, loaded, inputs, on_event, heads=heads, own=sources.task)
    if task.has_classes:
        inputs = replace(inputs, samples=by_name_or_anew(inputs.samples, class_names, on_event))
    task.check(inputs, on_event, shape=shape, purpose="fine-tuning needs them")
    if task.has_classes and class_names is None and weights.from_elsewhere:
        warn_of_order(inputs.samples, on_event, outputs=(shape or (1,))[-1])
    if takes_channels_last(model, inputs):
        loaded.module.to(memory_format=torch.channels_last)
    masks = {name: mask.to(device) for name, mask in masks.items()}
    counted = without_biases(masks)
    size = sum(mask.numel() for mask in counted.values())
    density = count_kept(counted) / size if size else 1.0
    held_out = _held_out(config, inputs, on_event)
    if not held_out and config.validation and config.gives("validation"):
        what, hint = f"holds out none of {len(inputs)} samples", "give a larger fraction, or 0 to hold out none"
        raise UsageError(as_typed(config, "validation"), what, hint=hint)
    training, validation = _divide(config, inputs, held_out)
    if not takes_targets(loaded.module, heads):  # it gives no outputs in training mode, and its losses are tried below
        check_training(loaded.module, heads, training, batch_size=config.batch_size, where=config.model)
    try_once(task, loaded, inputs, trains=True)
    task = _with_options(task, config, training, shape)
    job = FinetuneJob(
        config=config,
        loaded=loaded,
        masks=masks,
        groups={} if config.dense else weights.groups,
        training=training,
        validation=validation,
        learning_rate=config.learning_rate or default_learning_rate(config.optimiser, density=density),
        density=density,
        task=task,
        dtypes=model.dtypes,
        channels=weights.channels if masks else None,
    )
    if config.warmup and config.gives("warmup") and not warmup_steps(job):
        what, hint = f"is less than one of {steps_of(job)} steps", "give a larger fraction, or 0 for none"
        raise UsageError(as_typed(config, "warmup"), what, hint=hint)
    return job


def _held_out(config: FinetuneConfig, inputs: Inputs, on_event: EventSink) -> int:
    """The number of samples, or of whole batches, to choose the epoch by.

    Raises:
        DataError: if the data is a stream that does not end.
        UsageError: if batches are to be held out that come again with other samples.
    """
    samples = inputs.samples
    if samples.successive and getattr(samples.source, "goes_on", False):
        what = f"does not end within {len(samples):,} batches, and an epoch needs an end"
        raise DataError(samples.spec, what, hint="give --limit N, the batches of an epoch")
    if samples.successive and samples.changes != "never" and config.validation:
        why = f"the batches of {samples.spec} hold other samples in each pass"
        if config.gives("validation"):
            raise UsageError(as_typed(config, "validation"), why, hint="give 0, or let it not shuffle")
        on_event(Noted(f"validation: none is held out, for {why}; the last epoch counts"))
        return 0
    return math.floor(config.validation * len(inputs))


def _divide(config: FinetuneConfig, inputs: Inputs, held_out: int) -> tuple[Inputs, Inputs]:
    """Training and validation samples."""
    samples = inputs.samples
    if samples.successive:
        first, rest = samples.held_out(held_out) if held_out else (samples.subset(torch.arange(0)), samples)
        if held_out and first is samples:  # too few batches
            first = samples.subset(torch.arange(0))
        return replace(inputs, samples=rest), replace(inputs, samples=first)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(config.seed))
    parts = order[held_out:], order[:held_out]
    training, validation = (replace(inputs, samples=samples.subset(part)) for part in parts)
    return training, validation


def _with_options(task: Task, config: FinetuneConfig, training: Inputs, shape: tuple[int, ...]) -> Task:
    """The task with label smoothing and class weights.

    Raises:
        UsageError: if the task reads neither, or the weights do not fit the classes.
    """
    for name in ("label_smoothing", "class_weights"):
        if config.gives(name) and not isinstance(task, Classification):
            raise UsageError(as_typed(config, name), f"the task {task.name} does not read it", hint=LEAVE_OUT)
    if not isinstance(task, Classification):
        return task
    weights, classes = None, shape[0] if isinstance(task, PixelClassification) else shape[-1]
    if config.class_weights == "balanced":
        assert isinstance(training.samples.labels, Tensor)
        weights = balanced_weights(training.samples.labels, classes)
    elif config.class_weights is not None:
        weights = _numbers(config.class_weights)
        if len(weights) != classes or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            what = f"is not one number for each of {classes:,} classes"
            raise UsageError(as_typed(config, "class_weights"), what, hint="separate them by commas, or say balanced")
    plain = not config.label_smoothing and weights is None
    return task if plain else replace(task, smoothing=config.label_smoothing, weights=weights)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        return ()


def steps_of(job: FinetuneJob) -> int:
    """Training steps over all epochs."""
    return job.config.epochs * division(job)[1]


def warmup_steps(job: FinetuneJob) -> int:
    """Steps over which the learning rate rises."""
    return math.floor(job.config.warmup * steps_of(job))


def seconds_per_step(job: FinetuneJob) -> float:
    """Seconds a step, measured on a few steps, which change the job's module."""
    network = SparseModule(job.loaded.module.train(), {}, job.loaded.select_outputs, job.task, job.loaded.output_mask)
    trained = [p for p in network.parameters.values() if p.requires_grad]
    optimiser = make_optimiser(job.config.optimiser, trained, learning_rate=0.0, weight_decay=0.0)
    indices = torch.arange(division(job)[0])
    seconds = []
    for _ in range(PROBE_STEPS):
        begun = time.perf_counter()
        x, labels = job.training.labelled(indices)
        float(training_step(network, optimiser, x, labels))  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def division(job: FinetuneJob) -> tuple[int, int]:
    """The number of samples a step, and of steps an epoch.

    Of whole batches a step takes one for each process, or as many as `--batch-size` says.
    """
    if job.training.samples.successive:
        each = this_process_group().size
        if job.config.gives("batch_size"):
            each = min(job.config.batch_size, len(job.training))
        return each, max(1, len(job.training) // each)
    # A short last batch is dropped: batch norm needs more than one sample, and the rate is for a full batch.
    batch_size = min(job.config.batch_size, len(job.training))
    return batch_size, len(job.training) // batch_size

"""Prepare a fine-tuning run: find and check its inputs and resolve its defaults."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace

import torch

from ntt_cli.config import FinetuneConfig, as_typed
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.labels import by_name_or_anew, warn_of_order
from ntt_cli.errors import UsageError
from ntt_cli.masks.masks import count_kept, without_biases
from ntt_cli.networks.checks import check_forward, check_training, require_samples
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import fixed_masks, open_weights
from ntt_cli.networks.normalisation import known_normalisation, open_inputs
from ntt_cli.networks.precision import Dtypes
from ntt_cli.networks.prepare import takes_channels_last, to_functional
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.machine import pick_device
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Masks
from ntt_cli.training.step import SparseModule, default_learning_rate, make_optimiser, training_step

PROBE_STEPS = 6


@dataclass(frozen=True)
class Task:
    """A fine-tuning run, ready to start.

    Attributes:
        loaded: the model; its module is on the device and has the checkpoint's weights.
        masks: empty for a dense network.
        training: samples to learn from.
        validation: samples to choose the epoch by; may be empty.
        learning_rate: the peak rate.
        density: kept fraction of the masked weights.
        dtypes: of the network's state dict, where the network computes in others.
    """

    config: FinetuneConfig
    loaded: LoadedModel
    masks: Masks
    training: Inputs
    validation: Inputs
    learning_rate: float
    density: float
    dtypes: Dtypes


def prepare(config: FinetuneConfig, on_event: EventSink, sources: Sources = AS_NAMED) -> Task:
    """Find and check everything that a run needs, before any work.

    Raises:
        UsageError: if an option would have no effect.
    """
    device = pick_device(config.device)
    loaded = sources.load_model(config, seed=config.seed)
    weights = open_weights(sources.weights_of(config.checkpoint), loaded, on_event, options=config)
    masks = fixed_masks(weights, loaded.module, config, on_event)
    model = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    samples = sources.load_samples(config, loaded, split="train")
    inputs = open_inputs(samples, device=device, known=known, on_event=on_event)
    require_samples(inputs, 2)
    shape = check_forward(model, inputs, on_event, where=config.model)
    class_names = weights.class_names
    inputs = replace(inputs, samples=by_name_or_anew(inputs.samples, class_names, on_event))
    CLASSIFICATION.check(inputs, on_event, shape=shape, purpose="fine-tuning needs them")
    if class_names is None and weights.from_elsewhere:
        warn_of_order(inputs.samples, on_event, outputs=shape[-1])
    if takes_channels_last(model, inputs):
        loaded.module.to(memory_format=torch.channels_last)
    masks = {name: mask.to(device) for name, mask in masks.items()}
    counted = without_biases(masks)
    size = sum(mask.numel() for mask in counted.values())
    density = count_kept(counted) / size if size else 1.0
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(config.seed))
    held_out = math.floor(config.validation * len(inputs))
    if not held_out and config.validation and config.gives("validation"):
        what, hint = f"holds out none of {len(inputs)} samples", "give a larger fraction, or 0 to hold out none"
        raise UsageError(as_typed(config, "validation"), what, hint=hint)
    training = replace(inputs, samples=inputs.samples.subset(order[held_out:]))
    check_training(loaded.module, loaded.select_outputs, training, batch_size=config.batch_size, where=config.model)
    task = Task(
        config=config,
        loaded=loaded,
        masks=masks,
        training=training,
        validation=replace(inputs, samples=inputs.samples.subset(order[:held_out])),
        learning_rate=config.learning_rate or default_learning_rate(config.optimiser, density=density),
        density=density,
        dtypes=model.dtypes,
    )
    if config.warmup and config.gives("warmup") and not warmup_steps(task):
        what, hint = f"is less than one of {steps_of(task)} steps", "give a larger fraction, or 0 for none"
        raise UsageError(as_typed(config, "warmup"), what, hint=hint)
    return task


def steps_of(task: Task) -> int:
    """Training steps over all epochs."""
    return task.config.epochs * division(task)[1]


def warmup_steps(task: Task) -> int:
    """Steps over which the learning rate rises."""
    return math.floor(task.config.warmup * steps_of(task))


def seconds_per_step(task: Task) -> float:
    """Seconds a step, measured on a few steps, which change the task's module."""
    network = SparseModule(task.loaded.module.train(), {}, task.loaded.select_outputs)
    trained = [p for p in network.parameters.values() if p.requires_grad]
    optimiser = make_optimiser(task.config.optimiser, trained, learning_rate=0.0, weight_decay=0.0)
    indices = torch.arange(division(task)[0])
    seconds = []
    for _ in range(PROBE_STEPS):
        begun = time.perf_counter()
        x, labels = task.training.batch(indices), task.training.labels(indices)
        float(training_step(network, optimiser, x, labels))  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def division(task: Task) -> tuple[int, int]:
    """The number of samples a step, and of steps an epoch."""
    # A short last batch is dropped: batch norm needs more than one sample, and the rate is for a full batch.
    batch_size = min(task.config.batch_size, len(task.training))
    return batch_size, len(task.training) // batch_size

"""`ntt finetune`: supervised training of a sparse network, or of a dense one, with its zeros held."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ntt_cli.config import FinetuneConfig, recorded
from ntt_cli.core.functional import Masks
from ntt_cli.core.logits import counted_rows, label_loss
from ntt_cli.core.masks import as_numbers
from ntt_cli.core.training import default_learning_rate, make_optimiser, training_step
from ntt_cli.errors import DivergedError
from ntt_cli.io.checkpoint import load_into, read_checkpoint, write_checkpoint
from ntt_cli.io.files import check_outputs, report_path
from ntt_cli.io.models import LoadedModel, load_model
from ntt_cli.io.report import history_tensors, mask_tensors, write_report
from ntt_cli.workflows.checks import check_forward, check_labels, check_training, require_samples
from ntt_cli.workflows.events import EpochDone, EventSink, TrainingStarted, TrainingStepsDone
from ntt_cli.workflows.prepare import (
    Inputs,
    known_standardisation,
    open_inputs,
    pick_device,
    take_apart,
    takes_channels_last,
)
from ntt_cli.workflows.reports import EpochSummary, FinetuneReport

LOOK_EVERY = 20
EVALUATION_BATCH = 256
PROBE_STEPS = 6


@dataclass(frozen=True)
class Task:
    """A fine-tuning run, ready to start.

    Attributes:
        config: as the user gave it.
        loaded: the model's source; its module is on the device and carries the checkpoint's weights.
        masks: `True` = kept; empty for a dense network.
        training: samples to learn from.
        validation: samples to choose the epoch by; may be empty.
        learning_rate: the peak rate.
        density: kept fraction of the masked weights.
    """

    config: FinetuneConfig
    loaded: LoadedModel
    masks: Masks
    training: Inputs
    validation: Inputs
    learning_rate: float
    density: float


@dataclass(frozen=True)
class _Best:
    epoch: int
    key: tuple[float, float]
    state: dict[str, Tensor]


def prepare(config: FinetuneConfig, on_event: EventSink) -> Task:
    """Find and check everything that a run needs, before any work."""
    device = pick_device(config.device)
    loaded = load_model(config, seed=config.seed)
    checkpoint = None
    if config.checkpoint is not None:
        checkpoint = read_checkpoint(Path(config.checkpoint))
        load_into(loaded.module, checkpoint)
    model = take_apart(loaded.module, device, on_event, pick=loaded.pick)
    inputs = open_inputs(config, loaded, split="train", device=device, known=known_standardisation(checkpoint))
    require_samples(inputs, 2)
    shape = check_forward(model, inputs, where=config.model)
    check_labels(inputs, shape=shape, purpose="fine-tuning needs them")
    if takes_channels_last(model, inputs):
        loaded.module.to(memory_format=torch.channels_last)
    masks = {name: mask.to(device) for name, mask in checkpoint.masks.items()} if checkpoint else {}
    size = sum(mask.numel() for mask in masks.values())
    density = sum(int(mask.sum()) for mask in masks.values()) / size if size else 1.0
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(config.seed))
    held_out = math.floor(config.validation * len(inputs))
    training = replace(inputs, samples=inputs.samples.subset(order[held_out:]))
    check_training(loaded.module, loaded.pick, training, batch_size=config.batch_size, where=config.model)
    return Task(
        config=config,
        loaded=loaded,
        masks=masks,
        training=training,
        validation=replace(inputs, samples=inputs.samples.subset(order[:held_out])),
        learning_rate=config.learning_rate or default_learning_rate(config.optimiser, density=density),
        density=density,
    )


def run(config: FinetuneConfig, on_event: EventSink) -> FinetuneReport:
    """Fine-tune, and write the chosen epoch's checkpoint and then the report.

    Raises:
        NttError: if the input is unusable, the numbers diverge or the output cannot be written.
    """
    default = "dense.safetensors" if config.checkpoint is None else "tuned.safetensors"
    output = Path(default if config.output is None else config.output)
    check_outputs(output, force=config.force)
    task = prepare(config, on_event)
    best, epochs = _train(task, on_event)
    write_checkpoint(
        output,
        best.state,
        task.masks,
        kind="finetune",
        model=task.loaded,
        config=recorded(config),
        standardisation=task.training.standardisation,
    )
    report = FinetuneReport(
        output=str(output),
        report=str(report_path(output)),
        model=config.model,
        data=task.training.samples.spec,
        optimiser=config.optimiser,
        learning_rate=task.learning_rate,
        density=task.density,
        best_epoch=best.epoch,
        accuracy=epochs[best.epoch - 1].accuracy,
        epochs=epochs,
    )
    history = {"train_loss": [epoch.train_loss for epoch in epochs]}
    if len(task.validation):
        history["accuracy"] = [epoch.accuracy or 0.0 for epoch in epochs]
    tensors = mask_tensors(task.masks) | history_tensors(history)
    write_report(report_path(output), tensors, kind="finetune report", summary=report)
    return report


def _train(task: Task, on_event: EventSink) -> tuple[_Best, list[EpochSummary]]:
    config, module = task.config, task.loaded.module
    parameters = dict(module.named_parameters())
    numbers = as_numbers(task.masks, parameters)
    optimiser = make_optimiser(
        config.optimiser,
        [p for p in parameters.values() if p.requires_grad],
        learning_rate=task.learning_rate,
        weight_decay=config.weight_decay,
    )
    batch_size, steps_per_epoch = _division(task)
    schedule = _rate_schedule(config, optimiser, steps=steps_of(task))
    on_event(TrainingStarted(config.epochs, steps_per_epoch))
    order = torch.Generator().manual_seed(config.seed)
    best: _Best | None = None
    epochs: list[EpochSummary] = []
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # Dropout draws from the global generator
        for epoch in range(1, config.epochs + 1):
            module.train()
            losses: list[Tensor] = []
            shuffled = torch.randperm(len(task.training), generator=order)
            for indices in shuffled[: steps_per_epoch * batch_size].split(batch_size):
                x, labels = task.training.batch(indices), task.training.labels(indices)
                losses.append(
                    training_step(
                        module, optimiser, x, labels, pick=task.loaded.pick, parameters=parameters, mask_numbers=numbers
                    )
                )
                schedule.step()
                if len(losses) % LOOK_EVERY == 0 or len(losses) == steps_per_epoch:
                    _look(losses[-1], (epoch - 1) * steps_per_epoch + len(losses), on_event)
            _check_finite(module, epoch)
            accuracy, validation_loss = _validate(task.loaded, task.validation)
            epochs.append(
                EpochSummary(epoch=epoch, train_loss=float(torch.stack(losses).double().mean()), accuracy=accuracy)
            )
            on_event(EpochDone(epoch, epochs[-1].train_loss, accuracy))
            # Without validation samples every epoch ties, and the last one counts.
            key = (accuracy or 0.0, -validation_loss)
            if best is None or key >= best.key:
                best = _Best(epoch, key, {name: value.clone() for name, value in module.state_dict().items()})
    assert best is not None
    return best, epochs


def steps_of(task: Task) -> int:
    """Training steps over all epochs."""
    return task.config.epochs * _division(task)[1]


def seconds_per_step(task: Task) -> float:
    """Measured on a few steps that move the task's module."""
    module, parameters = task.loaded.module.train(), dict(task.loaded.module.named_parameters())
    trained = [p for p in parameters.values() if p.requires_grad]
    optimiser = make_optimiser(task.config.optimiser, trained, learning_rate=0.0, weight_decay=0.0)
    indices = torch.arange(_division(task)[0])
    seconds = []
    for _ in range(PROBE_STEPS):
        begun = time.perf_counter()
        x, labels = task.training.batch(indices), task.training.labels(indices)
        float(
            training_step(module, optimiser, x, labels, pick=task.loaded.pick, parameters=parameters, mask_numbers={})
        )
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def _division(task: Task) -> tuple[int, int]:
    """Samples a step, and steps an epoch."""
    # The last batch is dropped if it is short: batch norm cannot learn from one sample, and its rate would be too high.
    batch_size = min(task.config.batch_size, len(task.training))
    return batch_size, len(task.training) // batch_size


def _rate_schedule(
    config: FinetuneConfig, optimiser: torch.optim.Optimizer, *, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.rate_schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def _validate(loaded: LoadedModel, validation: Inputs) -> tuple[float | None, float]:
    if not len(validation):
        return None, 0.0
    module = loaded.module.eval()
    hits, count, loss = 0, 0, 0.0
    with torch.no_grad():
        for indices in torch.arange(len(validation)).split(EVALUATION_BATCH):
            logits, labels = loaded.pick(module(validation.batch(indices))), validation.labels(indices)
            rows, counted = counted_rows(logits, labels)
            hits += int((rows.argmax(dim=1) == counted).sum())
            count += len(counted)
            loss += float(label_loss(logits, labels, reduction="sum"))
    return (hits / count, loss / count) if count else (None, 0.0)


def _check_finite(module: nn.Module, epoch: int) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DivergedError(
                f"epoch {epoch}",
                f"{name} is no longer finite",
                hint="try a smaller --learning-rate; nothing was written",
            )


def _look(loss: Tensor, step: int, on_event: EventSink) -> None:
    if not loss.isfinite():
        raise DivergedError(
            f"step {step}",
            "the training loss is no longer finite",
            hint="try a smaller --learning-rate; nothing was written",
        )
    on_event(TrainingStepsDone(step, float(loss)))

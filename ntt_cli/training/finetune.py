"""`ntt finetune`: supervised training of a sparse network under its masks, or of a dense network."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.optim import lr_scheduler

from ntt_cli.config import FinetuneConfig
from ntt_cli.data.batch import parts_of
from ntt_cli.files.atomic import report_path
from ntt_cli.files.checkpoint import Contents, sizes_of
from ntt_cli.files.metadata import RunRecord
from ntt_cli.files.report import history_tensors, mask_tensors
from ntt_cli.masks.masks import as_bits
from ntt_cli.networks.batch_norm import is_statistic
from ntt_cli.networks.precision import in_own_types
from ntt_cli.networks.targets import call_to_measure
from ntt_cli.results import EpochSummary, FinetuneReport
from ntt_cli.runs.checkpointer import RunCheckpointer
from ntt_cli.runs.finite_checks import CHECK_EVERY, check_losses
from ntt_cli.runs.outcome import Outcome
from ntt_cli.runs.outputs import announce, finished, open_checkpointer, output_lock, run_record
from ntt_cli.runs.run import Run
from ntt_cli.runs.same_run import same_run
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EpochDone, EventSink, TrainingStarted, TrainingStepsDone
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.machine import pick_device
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.process_group import SINGLE, this_process_group
from ntt_cli.runtime.seeding import global_draws_apart, seed_global_draws
from ntt_cli.runtime.signals import Stop
from ntt_cli.tasks.base import Measurement
from ntt_cli.training.job import FinetuneJob, division, prepare, steps_of, warmup_steps
from ntt_cli.training.progress import Best, Training
from ntt_cli.training.step import LONGEST_GRADIENT, SparseModule, make_optimiser, training_step

EVALUATION_BATCH = 256


def run(config: FinetuneConfig, on_event: EventSink, stop: Stop | None = None) -> FinetuneReport:
    """As `finetune`, without objects, and returns only the report."""
    return finetune(config.model_copy(update={"output": config.named_output}), on_event, stop).report


def finetune(
    config: FinetuneConfig, on_event: EventSink, stop: Stop | None = None, sources: Sources = AS_NAMED
) -> Outcome[FinetuneReport]:
    """Fine-tune, and write the chosen epoch's checkpoint and then the report; without `config.output`, neither.

    Raises:
        NttError: if the input is unusable, the numbers diverge or the output cannot be written.
        Interrupted: if the run was asked to end.
    """
    output = None if config.output is None else Path(config.output)
    group, stop = this_process_group() if output else SINGLE, stop or Stop()
    with group.joined(pick_device(config.device)), ExitStack() as claim:
        with group.starting():
            claim.enter_context(output_lock(output, config, group, on_event))
            job = prepare(config, on_event, sources)
            group.require(division(job)[0])
            samples = job.training.samples, job.validation.samples
            record = run_record(config, job.loaded, sources, samples, {"learning_rate": job.learning_rate})
            if done := finished(output, config, record, FinetuneReport, on_event):
                return Outcome(done, None)
            checkpointer = open_checkpointer(output, config, record, stop, group, on_event)
            announce(f"{config.epochs:,} epochs of {division(job)[1]:,} steps", output, checkpointer, on_event)
        # Training takes whole batches: there are no micro-batches to make smaller.
        this = Run(on_event, checkpointer, MicroBatching(None, config.batch_size, on_event, fixed=True))
        if group.size > 1:
            _take_first(job.loaded.module, record, this)
        with checkpointer.finishing():
            best, epochs = _train(job, this)
            outcome = _outcome(output, job, record, best, epochs)
            if output and group.first:
                outcome.write(output)
    return outcome


def _take_first(module: nn.Module, record: RunRecord, run: Run) -> None:
    """Give the network the first process's values."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, value in same_run(run.group, record, own, run.checkpointer.found).items():
            own[name].copy_(value)


def _outcome(
    output: Path | None, job: FinetuneJob, record: RunRecord, best: Best, epochs: list[EpochSummary]
) -> Outcome[FinetuneReport]:
    contents = Contents(
        state=in_own_types(best.state, job.dtypes),
        masks=job.masks,
        kind="finetune",
        model=job.loaded.record,
        config=record.config,
        normalisation=job.training.normalisation,
        class_names=job.training.samples.class_names,
        run_sha256=record.sha256,
        channels=job.channels,
        groups=job.groups,
    )
    history = {"train_loss": [epoch.train_loss for epoch in epochs]}
    if len(job.validation):
        history[job.task.headline] = [epoch.value or 0.0 for epoch in epochs]
    report = FinetuneReport(
        output="" if output is None else str(output),
        report="" if output is None else str(report_path(output)),
        model=job.config.model,
        data=job.training.samples.spec,
        optimiser=job.config.optimiser,
        learning_rate=job.learning_rate,
        density=job.density,
        class_names=job.training.samples.class_names,
        best_epoch=best.epoch,
        accuracy=epochs[best.epoch - 1].accuracy,
        epochs=epochs,
        task=job.task.name,
        metric=job.task.headline,
        higher_is_better=job.task.higher_is_better,
        value=epochs[best.epoch - 1].value,
        sizes=sizes_of(contents),
        divided=job.training.samples.split is not None,
    )
    return Outcome(report, contents, mask_tensors(job.masks) | history_tensors(history))


def _train(job: FinetuneJob, run: Run) -> tuple[Best, list[EpochSummary]]:
    config, module, (_, steps) = job.config, job.loaded.module, division(job)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimiser = make_optimiser(
        config.optimiser, trained, learning_rate=job.learning_rate, weight_decay=config.weight_decay
    )
    schedule = _rate_schedule(job, optimiser)
    training = Training(module, optimiser, schedule, torch.Generator().manual_seed(config.seed))
    with global_draws_apart(job.training.device), run.stop.patiently():
        if state := run.checkpointer.found:
            training.restore(state, samples=len(job.training), steps=steps, epochs=config.epochs)
        run.on_event(TrainingStarted(config.epochs, steps, training.step))
        for epoch in range(len(training.epochs) + 1, config.epochs + 1):
            _train_epoch(job, training, run)
            _end_epoch(job, training, epoch, run)
        run.checkpointer.save_if_unfinished(training.state)
    assert training.best is not None
    return training.best, training.epochs


def _train_epoch(job: FinetuneJob, training: Training, run: Run) -> None:
    """Take the remaining steps of the epoch."""
    module = training.module.train()
    bits = as_bits(job.masks, dict(module.named_parameters()))
    network = SparseModule(module, bits, job.loaded.select_outputs, job.task, job.loaded.output_mask)
    execution, longest = Execution(group=run.group), LONGEST_GRADIENT[job.config.optimiser]
    batch_size, steps = division(job)
    if job.training.samples.successive:
        shuffled = torch.arange(steps * batch_size) + len(training.epochs) * steps * batch_size
    else:
        shuffled = torch.randperm(len(job.training), generator=training.order)
    for batch in shuffled[: steps * batch_size].split(batch_size)[len(training.losses) :]:
        indices = run.group.share(batch)
        seed_global_draws(job.config.seed, training.step, run.group.rank)
        x, labels = job.training.labelled(indices, (job.config.seed, training.step))
        try:
            loss = training_step(network, training.optimiser, x, labels, longest=longest, execution=execution)
        except FloatingPointError as error:
            raise run.checkpointer.diverged(f"step {training.step + 1}", str(error)) from error
        training.losses.append(loss)
        training.schedule.step()
        training.step += 1
        last = len(training.losses) == steps
        check_losses(training.losses[-CHECK_EVERY:], training.step, run.checkpointer, last=last, whose="training")
        if len(training.losses) % CHECK_EVERY == 0 or last:
            run.on_event(TrainingStepsDone(training.step, float(loss)))
        run.checkpointer.maybe_save(training.state)


def _end_epoch(job: FinetuneJob, training: Training, epoch: int, run: Run) -> None:
    module = training.module
    if run.group.size > 1:
        # Each process has batch-norm statistics of its own samples.
        module.load_state_dict(run.group.broadcast(dict(module.named_buffers())), strict=False)
    _check_finite(module, epoch, run.checkpointer)
    value, validation_loss = _validate(job, run.checkpointer, epoch) if run.group.first else (None, 0.0)
    accuracy = value if job.task.headline == "accuracy" else None
    train_loss = float(torch.stack(training.losses).double().mean())
    training.losses = []
    training.epochs.append(EpochSummary(epoch=epoch, train_loss=train_loss, accuracy=accuracy, value=value))
    run.on_event(EpochDone(epoch, train_loss, value, job.task.headline))
    # Without validation samples every epoch ties, and the last one counts.
    key = ((value or 0.0) * (1 if job.task.higher_is_better else -1), -validation_loss)
    if training.best is None or key >= training.best.key:
        training.best = Best(epoch, key, {name: value.clone() for name, value in training.state_dict().items()})


def _rate_schedule(job: FinetuneJob, optimiser: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """It rises on a line over the warm-up; then it stays, or falls to 0 as half a cosine."""
    rising, cosine = warmup_steps(job), job.config.rate_schedule == "cosine"
    falling = max(1, steps_of(job) - rising)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / falling)) / 2 if cosine else 1.0

    return lr_scheduler.LambdaLR(optimiser, factor)


def _validate(job: FinetuneJob, checkpointer: RunCheckpointer, epoch: int) -> tuple[float | None, float]:
    """The task's headline metric, and the loss, on the validation samples.

    Raises:
        DivergedError: if the loss is not finite; without validation samples, on some of the training samples.
    """
    loaded, module = job.loaded, job.loaded.module.eval()
    inputs = job.validation if len(job.validation) else job.training.some(EVALUATION_BATCH)
    measurement = Measurement(job.task)
    with torch.no_grad():
        for indices in inputs.indices(EVALUATION_BATCH):
            for x, targets in zip(*map(parts_of, inputs.labelled(indices)), strict=True):
                returned = call_to_measure(module, module, x, targets, loaded.select_outputs)
                outputs = job.task.outputs_of(returned, loaded.select_outputs)
                measurement.add(*job.task.counted(outputs, targets, x, loaded.output_mask))
    if not math.isfinite(measurement.loss):
        raise checkpointer.diverged(f"epoch {epoch}", "the network's loss in evaluation is no longer finite")
    if not measurement.count or not len(job.validation):
        return None, 0.0
    return measurement.results()[job.task.headline], measurement.loss / measurement.count


def _check_finite(module: nn.Module, epoch: int, checkpointer: RunCheckpointer) -> None:
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    statistics = {name: value for name, value in module.named_buffers() if is_statistic(name)}
    for name, value in (trained | statistics).items():
        if not value.isfinite().all():
            raise checkpointer.diverged(f"epoch {epoch}", f"{name} is no longer finite")

"""`ntt prune`: a dense teacher becomes a sparse student, without labels."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ntt_cli.config import PruneConfig
from ntt_cli.files.atomic import report_path
from ntt_cli.files.checkpoint import Contents, sizes_of, write_checkpoint
from ntt_cli.files.metadata import RunRecord
from ntt_cli.files.report import history_tensors, mask_tensors
from ntt_cli.masks.masks import count_kept
from ntt_cli.methods.base import Method, Pruned
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.precision import rounded
from ntt_cli.pruning.channels import channel_records, summary_of, without_channels
from ntt_cli.pruning.estimate import Estimate, estimate_choice, estimate_run
from ntt_cli.pruning.job import PruneJob, prepare
from ntt_cli.pruning.measures import Measures, check_outputs, measure
from ntt_cli.pruning.pattern import require_pattern
from ntt_cli.results import OWN_WEIGHTS, RANDOM_WEIGHTS, LayerSummary, PrunePlan, PruneReport, Sizes
from ntt_cli.runs.checkpointer import RunCheckpointer, no_checkpoints
from ntt_cli.runs.outcome import Outcome
from ntt_cli.runs.outputs import announce, finished, open_checkpointer, output_lock, run_record
from ntt_cli.runs.run import Run
from ntt_cli.runs.same_run import same_run
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.runtime.machine import pick_device
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.process_group import SINGLE, this_process_group
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do
from ntt_cli.runtime.signals import Stop
from ntt_cli.tensors import Masks, Params

BARE_SHARE = 0.1
"""The fraction of an embedding's rows that may keep only one entry without a warning."""


def run(config: PruneConfig, on_event: EventSink, stop: Stop | None = None) -> PruneReport:
    """As `prune`, without objects, and returns only the report."""
    return prune(config, on_event, stop).report


@global_draws_apart()  # some networks draw random numbers in evaluation mode; results must repeat
def prune(
    config: PruneConfig,
    on_event: EventSink,
    stop: Stop | None = None,
    sources: Sources = AS_NAMED,
    method: Method | None = None,
) -> Outcome[PruneReport]:
    """Prune, and write the checkpoint and then its report; without `config.output` nothing is written.

    Raises:
        NttError: if the input is unusable, the numbers diverge or the output cannot be written.
        Interrupted: if the run was asked to end.
    """
    seed_as_users_do(config.seed)
    output = None if config.output is None else Path(config.output)
    group, stop = this_process_group() if output else SINGLE, stop or Stop()
    with group.joined(pick_device(config.device)), ExitStack() as claim:
        with group.starting():
            claim.enter_context(output_lock(output, config, group, on_event))
            group.require_one(config.compile, "--compile")
            job = prepare(config, on_event, sources, method)
            group.require(job.settings.batch_size // 2)
            record = _run_record(job)
            if done := finished(output, config, record, PruneReport, on_event):
                return Outcome(done, None)
            checkpointer = open_checkpointer(output, config, record, stop, group, on_event)
            announce(_work(job), output, checkpointer, on_event)
        tensors = same_run(group, record, job.teacher.params | job.teacher.buffers, checkpointer.found)
        job = replace(job, teacher=_with_values(job.teacher, tensors))
        this = _run_of(job, checkpointer, on_event)
        with checkpointer.finishing():
            pruned = _prune(job, this)
            if not group.first:
                return Outcome(_report(job, pruned, Measures()), None)
            checked = check_outputs(job, pruned, this, steps=job.steps)
            _warn_of_bare_rows(job, pruned.masks, on_event)
            contents = Contents(
                state=job.teacher.state_dict(pruned.params, pruned.buffers),
                masks=pruned.masks,
                kind="prune",
                model=job.loaded.record,
                config=record.config,
                normalisation=job.normalisation,
                class_names=job.class_names,
                run_sha256=record.sha256,
                channels=None if job.settings.channels is None else channel_records(job.settings.channels, pruned),
                groups=job.groups,
            )
            if output:
                write_checkpoint(output, contents)  # before any measurement, so that nothing is lost
            measures = measure(job, pruned, this, checked, steps=job.settings.steps)
            outcome = Outcome(
                _report(job, pruned, measures, sizes_of(contents)), contents, _report_tensors(pruned, measures)
            )
            if output:
                outcome.write_report(output)
    return outcome


def plan(
    config: PruneConfig, on_event: EventSink, sources: Sources = AS_NAMED, method: Method | None = None
) -> PrunePlan:
    """What `prune` would do, with an estimate of its time and memory.

    For the estimate, each part of the work is done once, and its results are discarded. Layer counts are those
    at the first step. With saliency they change as the student does.
    """
    begun = time.perf_counter()
    job = prepare(config, on_event, sources, method)
    record = _run_record(job)  # it reads the data, as a run does
    this = _run_of(job, no_checkpoints(), on_event)
    context, estimate = job.context(this), Estimate()
    if job.steps:
        on_event(Noted("measuring a step and each other part of the work"))
    if config.sparsity == 0:
        masks = context.dense()
    elif job.method.moves_weights and job.settings.steps:
        masks, estimate = estimate_run(job, this, begun=begun)
    elif "steps" in job.method.reads and job.settings.steps:
        masks, estimate = estimate_choice(job, this, begun=begun)
    else:
        masks = job.method.masks(context)
    return PrunePlan(
        model=config.model,
        parameters=sum(p.numel() for p in job.teacher.params.values()),
        prunable=job.prunable,
        kept=count_kept(masks),
        steps=job.steps,
        auto=job.settings.auto,
        **vars(estimate),
        layers=_layers(masks, job),
        run_sha256=record.sha256,
    )


def _work(job: PruneJob) -> str:
    """What there is to do, in words."""
    config = job.config
    goal = f"{100 * (1 - config.density):.6g}% zeros"
    if config.target_flops is not None:
        goal = f"{100 * config.target_flops:.6g}% of the operations"
    most = "at most " if job.settings.auto else ""
    steps = f", in {most}{job.steps:,} steps" if job.steps else ""
    return f"{goal} by {config.method}{steps}"


def _run_of(job: PruneJob, checkpointer: RunCheckpointer, on_event: EventSink) -> Run:
    settings, several = job.settings, checkpointer.group.size > 1
    return Run(on_event, checkpointer, MicroBatching(settings.micro_batch, settings.batch_size, on_event, several))


def _prune(job: PruneJob, this: Run) -> Pruned:
    context = job.context(this)
    if job.config.sparsity == 0:
        return Pruned(job.teacher.params, job.teacher.buffers, context.dense())
    pruned = job.method.prune(context)
    if job.settings.channels is not None:
        pruned = without_channels(job.settings.channels, pruned)
    require_pattern(job.config, pruned.masks, job.groups)
    own = job.teacher.dtypes
    return replace(pruned, params=rounded(pruned.params, own), buffers=rounded(pruned.buffers, own))


def _with_values(model: FunctionalModel, tensors: Params) -> FunctionalModel:
    params, buffers = ({name: tensors[name] for name in own} for own in (model.params, model.buffers))
    return replace(model, params=params, buffers=buffers)


def _run_record(job: PruneJob) -> RunRecord:
    parts = {name: getattr(part, "__qualname__", repr(part)) for name, part in job.method.parts.items()}
    samples = [] if job.inputs is None else [job.inputs.samples]
    # Of a caller's network nothing else says so, and untrained weights take longer steps and another score.
    own = {"trained": False} if job.sources.model is not None and not job.weights.trained else {}
    return run_record(job.config, job.loaded, job.sources, samples, job.settings.recorded() | parts | own)


def _warn_of_bare_rows(job: PruneJob, masks: Masks, on_event: EventSink) -> None:
    """Warn of included embeddings with many almost empty rows: their tokens do not occur in the data."""
    for name in job.looked_up:
        rows = masks[name].flatten(1).sum(dim=1)
        bare = int((rows == 1).sum())
        if bare >= BARE_SHARE * len(rows) and float(rows.double().mean()) >= 2:
            saw = f"{bare:,} of {len(rows):,} rows of {name} keep a single entry, as tokens do that no score saw"
            on_event(Warned(f"{saw}; without --include it stays dense"))


def _report(job: PruneJob, pruned: Pruned, measures: Measures, sizes: Sizes | None = None) -> PruneReport:
    kept, prunable = count_kept({name: pruned.masks[name] for name in job.names}), job.prunable
    output = job.config.output
    return PruneReport(
        output=str(Path(output)) if output is not None else "",
        report=str(report_path(Path(output))) if output is not None else "",
        model=job.config.model,
        method=job.config.method,
        teacher=_teacher(job),
        data=job.inputs.samples.spec if job.inputs else None,
        steps=len(pruned.history["total"]) if pruned.history else 0,
        parameters=sum(p.numel() for p in job.teacher.params.values()),
        prunable=prunable,
        kept=kept,
        sparsity=1 - kept / prunable,
        density=kept / prunable,
        class_names=job.class_names,
        agreement=measures.agreement,
        kernels=measures.kernels.summary if measures.kernels else None,
        layers=_layers(pruned.masks, job),
        left_out=job.left_out,
        pattern=job.config.pattern,
        sizes=sizes,
        structure=None if job.settings.channels is None else summary_of(job.settings.channels, pruned),
    )


def _teacher(job: PruneJob) -> str:
    if job.weights.origin == "factory":
        return OWN_WEIGHTS
    return job.config.weights or f"{RANDOM_WEIGHTS}, seed {job.config.seed}"


def _layers(masks: Masks, job: PruneJob) -> list[LayerSummary]:
    return [_layer(name, masks[name]) for name in job.names]


def _layer(name: str, mask: Tensor) -> LayerSummary:
    kept, size = int(mask.sum()), mask.numel()
    return LayerSummary(name=name, shape=tuple(mask.shape), kept=kept, size=size, density=kept / size)


def _report_tensors(pruned: Pruned, measures: Measures) -> dict[str, Tensor]:
    tensors = mask_tensors(pruned.masks) | history_tensors(pruned.history)
    for name, mask in pruned.masks.items():
        tensors[f"layer.{name}.density"] = mask.double().mean()
        tensors[f"layer.{name}.kept"] = mask.sum()
        tensors[f"layer.{name}.norm"] = pruned.params[name].norm()
    if measures.kernels is not None:
        tensors |= measures.kernels.tensors
    return tensors

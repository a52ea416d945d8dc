"""`ntt bench`: bytes, FLOPs and times of a sparse network, in each of its forms, beside the dense one."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntt_cli.config import LEAVE_OUT, BenchConfig, as_typed
from ntt_cli.data.batch import argument_names, parts_of
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError, UsageError, listed
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.files.measured_sizes import packed_bytes, zipped_bytes
from ntt_cli.files.metadata import CheckpointRecord
from ntt_cli.files.shards import find_weights
from ntt_cli.masks.masks import count_kept, without_biases
from ntt_cli.networks.checks import check_forward, require_samples
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.flops import count_flops
from ntt_cli.networks.functional import FunctionalModel, without
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import Weights, open_weights, warn_of_filled_zeros
from ntt_cli.networks.normalisation import known_normalisation, open_inputs
from ntt_cli.networks.prepare import to_functional
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import Compared, EventSink, Warned
from ntt_cli.runtime.machine import describe_machine, pick_device
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do
from ntt_cli.timing.dense import DenseForms, filled
from ntt_cli.timing.forms import ONNX, PYTORCH, Form, first_pass, matched, of_module, open_onnx, open_program
from ntt_cli.timing.pairs import Passes, measure_pairs
from ntt_cli.timing.results import BenchComparison, BenchFile, BenchReport

DIFFERENT = 0.01
"""From this fraction of the largest output on, a form counts as another network. Half precision alone makes less."""


@dataclass(frozen=True, eq=False)
class BenchJob:
    """A bench, ready to start: the network, its forms, and what goes through them."""

    config: BenchConfig
    loaded: LoadedModel
    weights: Weights
    model: FunctionalModel
    inputs: Inputs
    forms: list[Form]
    threads: int

    def batch(self, samples: int) -> Any:
        """So many samples; those of small data several times."""
        return self.inputs.batch(torch.arange(samples) % len(self.inputs))


@global_draws_apart()  # some networks draw random numbers in evaluation mode
def run(config: BenchConfig, on_event: EventSink, sources: Sources = AS_NAMED) -> BenchReport:
    """Measure a checkpoint and its exported forms.

    Raises:
        NttError: if a file or an option is unusable.
    """
    seed_as_users_do(config.seed)
    with _threads(config.threads) as threads, tempfile.TemporaryDirectory() as folder:
        job = prepare(config, on_event, sources, threads)
        files = _files(job, sources, on_event)
        comparisons = list(_comparisons(job, Path(folder), on_event))
    if unclear := sum(each.unclear for each in comparisons):
        what = (
            f"{unclear} of {len(comparisons)} intervals are too wide to exclude a faster network: other programs use"
            " this machine; --seconds takes more times"
        )
        on_event(Warned(what))
    return _report(job, sources, files, comparisons, on_event)


def prepare(config: BenchConfig, on_event: EventSink, sources: Sources, threads: int) -> BenchJob:
    """Find and check everything before any work.

    Raises:
        UsageError: if an option would have no effect, or the checkpoint is no file.
        DataError: if there are programs, and the data is not cut into samples.
        NttError: if a file, the network or the data is unusable.
    """
    device = pick_device(config.device)
    loaded = sources.load_model(config, seed=config.seed)
    weights = open_weights(sources.weights_of(config.checkpoint), loaded, on_event, options=config)
    if weights.checkpoint is None:
        raise UsageError(config.checkpoint, "is no file of weights", hint="name what ntt prune or ntt finetune wrote")
    model = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    model = replace(model, output_mask=loaded.output_mask)
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    samples = sources.load_samples(
        _with_data(config, loaded, sources, weights.checkpoint.record), loaded, split="test", labelled=False
    )
    inputs = open_inputs(samples, device=device, known=known, on_event=on_event, labelled=False)
    if samples.normalised and config.mean is not None:
        raise UsageError("--mean", f"does nothing to {samples.spec}", hint="leave out --mean and --std")
    if samples.bundled and config.gives("batch_size"):
        raise UsageError(as_typed(config, "batch_size"), f"{samples.spec} is not cut into batches", hint=LEAVE_OUT)
    require_samples(inputs, 1)
    model = replace(model, select_outputs=check_forward(model, inputs, on_event, where=config.model))
    forms = [of_module(config.checkpoint, loaded.module.eval())]
    forms += [_open(file, loaded, device, threads, on_event) for file in config.exported]
    if samples.bundled and (programs := [form.file for form in forms if form.runtime != PYTORCH]):
        what = "gives values that cannot be divided into samples, and programs take samples"
        raise DataError(samples.spec, what, hint=f"name other data, or leave out {listed(programs)}")
    return BenchJob(config, loaded, weights, model, inputs, forms, threads)


def _with_data(
    config: BenchConfig, loaded: LoadedModel, sources: Sources, record: CheckpointRecord | None
) -> BenchConfig:
    """The options, with the checkpoint's size of images if no data is named.

    If nothing is known but a shape, noise is the data: times do not depend on values.
    """
    if config.data is not None or sources.has_data:
        return config
    recorded = {} if record is None or config.input_shape else record.image_size
    found = {name: value for name, value in recorded.items() if not config.gives(name)}
    shape = config.input_shape or (None if sources.in_memory else loaded.input_shape)
    if loaded.data is None and shape is not None:
        found["data"] = f"noise:{config.batch_size}"
    return config.model_copy(update=found)


def _open(file: str, loaded: LoadedModel, device: torch.device, threads: int, on_event: EventSink) -> Form:
    suffix = Path(file).suffix.lower()
    if suffix == ".onnx":
        return open_onnx(file, threads, sum(argument_names(loaded.module), []))
    if suffix == ".pt2":
        return open_program(file, device)
    module = copy_module(loaded.module)
    open_weights(file, replace(loaded, module=module), on_event, role="exported")
    return of_module(file, module.eval())


@contextmanager
def _threads(number: int | None) -> Generator[int]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _files(job: BenchJob, sources: Sources, on_event: EventSink) -> list[BenchFile]:
    """What each form takes on disk and in operations, and how far its outputs are from the checkpoint's."""
    checkpoint, *others = job.forms
    found = [_file(job, checkpoint, sources.weights_of(job.config.checkpoint), None)]
    for form in others:
        difference = _difference(job, form)
        if difference is not None and not difference < DIFFERENT:
            what = (
                f"{form.file}: an output differs from the checkpoint's by {difference:.1%} of the largest; is it the"
                " same network?"
            )
            on_event(Warned(what))
        found.append(_file(job, form, form.file, difference))
    return found


def _file(job: BenchJob, form: Form, source: str | Checkpoint | None, difference: float | None) -> BenchFile:
    files = _on_disk(form, source) if isinstance(source, str) else []
    size = sum(path.stat().st_size for path in files) if files else None
    one = job.batch(1)
    flops = None
    if form.runtime != ONNX:
        flops = count_flops(lambda _, x: [form.prepare(part)() for part in parts_of(x)], {}, one, {}).dense  # type: ignore[arg-type,return-value]  # what it returns is not looked at
    return BenchFile(
        file=form.file,
        runtime=form.runtime,
        bytes=size,
        zipped_bytes=zipped_bytes(files) if files else None,
        flops=flops,
        difference=difference,
    )


def _on_disk(form: Form, source: str) -> list[Path]:
    path = Path(source)
    if form.runtime == PYTORCH:
        return list(find_weights(path).files)
    beside = path.with_name(f"{path.name}.data")  # where torch.onnx puts the weights of a large network
    return [path, beside] if form.runtime == ONNX and beside.is_file() else [path]


def _difference(job: BenchJob, form: Form) -> float | None:
    """The largest difference of an output from the checkpoint's, relative to the largest output of its head.

    Raises:
        CheckpointError: if the form lacks an output.
    """
    heads, largest = job.model.heads, 0.0
    assert heads is not None
    for part in parts_of(job.batch(1 if job.inputs.samples.bundled else job.config.batch_size)):
        with torch.no_grad():
            found = first_pass(form, part)
            if heads.layers is not None:
                return None  # what counts is inside the network
            wanted = heads(job.model.returned(part))
        expected = {next(iter(heads.shapes)): wanted} if isinstance(wanted, Tensor) else wanted
        for name, value in matched(form.file, expected, found).items():
            mask = job.model.mask_of(part, name, expected[name])
            right, it = (without(mask, each.cpu().double()) for each in (expected[name], value))
            apart = float((right - it).abs().max()) / (float(right.abs().max()) or 1.0)
            largest = largest if apart <= largest else apart  # and so NaN stays
    return largest


def _comparisons(job: BenchJob, folder: Path, on_event: EventSink) -> Iterator[BenchComparison]:
    """Each form beside the dense network in the same runtime: a sample at a time, then in batches."""
    sizes = [1] if job.inputs.samples.bundled else sorted({1, job.config.batch_size})
    module, heads = filled(job.loaded.module, job.weights.masks), job.model.heads
    assert heads is not None
    two = parts_of(job.batch(2))[0]
    dense = DenseForms(module, heads, two, job.config.model, job.threads, folder, on_event)
    pairs = [(form, samples) for samples in sizes for form in job.forms]
    for done, (form, samples) in enumerate(pairs, 1):
        yield _compared(job, dense.of(form.runtime), form, samples)
        on_event(Compared(done, len(pairs)))


def _compared(job: BenchJob, dense: Form, form: Form, samples: int) -> BenchComparison:
    batch = job.batch(samples)
    with torch.inference_mode():
        times = measure_pairs(*(_passes(job, each, batch) for each in (dense, form)), seconds=job.config.seconds)
    ratio = times.ratio
    return BenchComparison(
        file=form.file,
        runtime=form.runtime,
        samples=samples,
        passes=times.passes,
        dense_pass_seconds=times.dense,
        pass_seconds=times.other,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        verdict=ratio.verdict,
    )


def _passes(job: BenchJob, form: Form, batch: Any) -> Passes:
    for part in parts_of(batch):
        first_pass(form, part)
    calls = [form.prepare(part) for part in parts_of(batch)]
    device = job.inputs.device

    def run(passes: int) -> None:
        for _ in range(passes):
            for call in calls:
                call()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()

    return run


def _report(
    job: BenchJob,
    sources: Sources,
    files: list[BenchFile],
    comparisons: list[BenchComparison],
    on_event: EventSink,
) -> BenchReport:
    model, config, device = job.model, job.config, job.inputs.device
    masks = {name: mask.to(device) for name, mask in job.weights.masks.items()}
    counted = without_biases(masks)
    kept, prunable = count_kept(counted), sum(mask.numel() for mask in counted.values())
    one = job.batch(1)
    warn_of_filled_zeros(model, one, list(masks), on_event)
    flops = count_flops(model.bind(), model.params, one, masks)
    checkpoint = job.weights.checkpoint
    assert checkpoint is not None
    named = sources.weights_of(config.checkpoint)
    sha256 = find_weights(Path(named)).sha256 if isinstance(named, str) else None
    packed = packed_bytes(checkpoint, sha256)
    assert packed is not None
    return BenchReport(
        checkpoint=config.checkpoint,
        model=config.model,
        data=job.inputs.samples.spec,
        device=device.type,
        threads=job.threads,
        machine=describe_machine(device) | {form.runtime: form.version for form in job.forms if form.version},
        parameters=sum(p.numel() for p in model.params.values()),
        prunable=prunable,
        kept=kept,
        density=kept / prunable if prunable else None,
        flops_dense=flops.dense,
        flops_sparse=flops.sparse,
        dense_bytes=sum(value.nbytes for value in checkpoint.tensors.values()),
        packed_bytes=packed,
        packed_float16_bytes=packed_bytes(checkpoint, sha256, "float16"),
        files=files,
        comparisons=comparisons,
    )

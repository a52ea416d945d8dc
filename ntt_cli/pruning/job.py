"""Prepare a prune run: find and check its inputs and resolve its defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ntt_cli.config import LEAVE_OUT, DataOptions, PruneConfig, as_typed, method_class
from ntt_cli.config.pattern import Groups
from ntt_cli.data.batch import Batch
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.labels import by_name
from ntt_cli.errors import UsageError
from ntt_cli.files.metadata import Normalisation
from ntt_cli.kernels.checks import find_kernel
from ntt_cli.masks.allocation import allocate, layer_sizes, least_of, total_to_keep
from ntt_cli.methods.base import Method, MethodContext
from ntt_cli.methods.ntt.settings import TransferSettings, settle
from ntt_cli.networks.batch_norm import has_untrained_statistics
from ntt_cli.networks.checks import check_forward, require_one, require_samples
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.input_axes import input_axes
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import (
    Weights,
    describe_sparse_teacher,
    open_weights,
    warn_of_filled_zeros,
)
from ntt_cli.networks.normalisation import known_normalisation, note_inputs, open_inputs
from ntt_cli.networks.outputs import Heads
from ntt_cli.networks.prepare import (
    estimate_buffers,
    laid_out,
    pick_prunable,
    roles_of_others,
    to_functional,
    whole_slices,
)
from ntt_cli.pruning.channels import open_channels, require_method
from ntt_cli.pruning.pattern import check_method, under_pattern
from ntt_cli.runs.run import Run
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.compiled_code import keep_compiled_code_private
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.machine import pick_device
from ntt_cli.runtime.process_group import this_process_group
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Params

FRESH_SEED = 1_000_003
"""Added to the seed to reinitialise the network."""

READ_WITH_INPUTS = (
    *(name for name in DataOptions.model_fields if name not in {"mean", "std"}),
    "logits",
    "outputs",
    "micro_batch",
    "kernels",
)
"""Options that are read only if the method needs inputs; mean and deviation are recorded in any case."""


@dataclass(frozen=True)
class PruneJob:
    """A prune run, ready to start.

    Attributes:
        loaded: the model; its module has shapes but no values.
        weights: of the teacher.
        teacher: with batch-norm statistics from the inputs, on its device.
        inputs: with labels only for a method that needs them; `None` if it needs no inputs and none were named.
        normalisation: of the network's inputs; `None` if it is not known.
        class_names: of the network's outputs; `None` if they are not known and the method reads no labels.
        names: the prunable weights.
        looked_up: the prunable weights that are embeddings or tables.
        left_out: parameters of two or more dimensions that are pruned only if the user names them, with their roles,
            and the prunable weights that cannot have the pattern, with the reason.
        heads: the outputs that count; `None` without inputs.
        with_kernels: whether the networks' kernels are measured at the end.
        has_kernel: whether, in addition, the networks allow kernel products.
    """

    config: PruneConfig
    sources: Sources
    method: Method
    loaded: LoadedModel
    weights: Weights
    teacher: FunctionalModel
    inputs: Inputs | None
    normalisation: Normalisation | None
    class_names: tuple[str, ...] | None
    names: tuple[str, ...]
    looked_up: tuple[str, ...]
    left_out: dict[str, str]
    heads: Heads | None
    settings: TransferSettings
    with_kernels: bool
    has_kernel: bool

    @property
    def outputs(self) -> int:
        """The number of outputs of one sample; 0 without inputs."""
        return sum(self.heads.sizes) if self.heads else 0

    @property
    def prunable(self) -> int:
        """The number of entries of all prunable weights."""
        return sum(self.teacher.params[name].numel() for name in self.names)

    @property
    def groups(self) -> dict[str, Groups]:
        """Of the weights that have the pattern."""
        return {name: own for name, own in self.settings.slices.items() if isinstance(own, Groups)}

    @property
    def steps(self) -> int:
        """The steps that move the weights, at most."""
        return self.settings.steps if self.method.moves_weights and self.config.sparsity != 0 else 0

    def context(self, run: Run) -> MethodContext:
        """What the method may read, with a newly seeded generator."""
        return MethodContext(
            teacher=self.teacher,
            names=self.names,
            inputs=self.inputs,
            shape=self.loaded.input_shape,
            outputs=self.outputs,
            settings=self.settings,
            generator=torch.Generator().manual_seed(self.config.seed),
            run=run,
            fresh=self._fresh,
        )

    def _fresh(self) -> Params:
        other = self.sources.load_model(self.config, seed=self.config.seed + FRESH_SEED)
        device = next(iter(self.teacher.params.values())).device
        return to_functional(other.module, device, lambda _: None, select_outputs=other.select_outputs).params


def prepare(
    config: PruneConfig, on_event: EventSink, sources: Sources = AS_NAMED, method: Method | None = None
) -> PruneJob:
    """Find and check everything that a run needs, before any work.

    Raises:
        NttError: if anything is unusable, or an option would have no effect.
    """
    method, where = method or method_class(config.method)(), config.model
    require_method(config, method)
    if config.compile:
        keep_compiled_code_private()
    loaded, weights, teacher = _open_network(config, method, sources, on_event)
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    inputs = _open_inputs(config, method, loaded, known, sources, on_event)
    heads: Heads | None = None
    if inputs:
        heads = check_forward(teacher, inputs, on_event, where=where)
        teacher = laid_out(replace(teacher, select_outputs=heads), inputs)
    names = pick_prunable(teacher, inputs, on_event, exclude=config.exclude, include=config.include, where=where)
    class_names = weights.class_names
    if inputs:
        warn_of_filled_zeros(teacher, inputs.batch(torch.arange(1)), names, on_event)
    if inputs and heads and method.needs == "labels":
        shape = require_one(heads, where=where)
        samples = by_name(inputs.samples, class_names, on_event, purpose="the mask is chosen by")
        inputs, class_names = replace(inputs, samples=samples), samples.class_names
        CLASSIFICATION.check(inputs, on_event, shape=shape, purpose=f"--method {config.method} needs them")
    many = len(inputs) if inputs else 0
    settings = settle(config, teacher, names, samples=many, trained=weights.trained, method=type(method))
    if inputs and inputs.samples.successive:
        settings = _of_whole_batches(config, method, settings, inputs)
    roles = roles_of_others(teacher, inputs)
    rows_of = tuple(name for name in names if roles.get(name) in {"embedding", "table"})
    slices = whole_slices(teacher, inputs, names, rows_of)
    settings = replace(settings, slices=slices)
    shapes, dense = {name: teacher.params[name].shape for name in names}, dict[str, str]()
    if config.structure == "channels":
        x = _example(inputs, loaded, teacher)
        channels = open_channels(config, teacher, x, names, slices, on_event)
        settings = replace(settings, channels=channels, slices={})
    else:
        if config.pattern is not None:
            check_method(config, method)
            axes = input_axes(teacher, names, inputs)
            settings, dense = under_pattern(config, settings, shapes, axes, on_event)
        _check_sparsity(config, shapes, settings)
    matched = method.moves_weights and config.sparsity != 0 and settings.objective.kernel_weight > 0
    with_kernels, has_kernel = matched or config.kernels, False
    if inputs and heads and with_kernels:
        outputs = sum(heads.sizes)
        has_kernel = find_kernel(teacher, inputs, on_event, outputs=outputs, matched=matched, where=where)
    if inputs and has_untrained_statistics(teacher):
        teacher = replace(teacher, buffers=estimate_buffers(teacher, teacher.params, inputs))
    return PruneJob(
        config=config,
        sources=sources,
        method=method,
        loaded=loaded,
        weights=weights,
        teacher=teacher,
        inputs=inputs,
        normalisation=inputs.normalisation if inputs else known,
        class_names=class_names,
        names=names,
        looked_up=rows_of,
        left_out={name: role for name, role in roles.items() if name not in names} | dense,
        heads=heads,
        settings=settings,
        with_kernels=with_kernels,
        has_kernel=has_kernel,
    )


def _open_network(
    config: PruneConfig, method: Method, sources: Sources, on_event: EventSink
) -> tuple[LoadedModel, Weights, FunctionalModel]:
    """The network, its weights, and it as a function on its device.

    Raises:
        UsageError: if the method needs other weights, but the factory always builds the same.
    """
    device, own = pick_device(config.device), sources.model is not None
    loaded = sources.load_model(config, seed=config.seed)
    weights = open_weights(sources.weights_of(config.weights), loaded, on_event, options=config)
    describe_sparse_teacher(weights, on_event, sparsity=config.sparsity)
    if method.reinitialises and (weights.origin == "factory" or own):
        only = "is one network alone" if own else "says TRAINED: it always builds the same"
        what = f"puts the mask on other random weights, and {config.model} {only}"
        raise UsageError(f"--method {config.method}", what, hint="choose another method")
    if method.replaces_weights and weights.trained:
        hint = "choose another method, or give weights that are not trained"
        raise UsageError(f"--method {config.method}", "makes all prunable weights itself, from random draws", hint=hint)
    if not own and weights.origin == "random" and not sources.heeds_seed(config, loaded, seed=config.seed):
        what = f"{config.model} builds the same weights under every seed"
        trained = "If they are trained, give --weights factory or write TRAINED = True in model.py: NTT matches outputs"
        on_event(Warned(f"{what}. {trained} alone, as with --weights; if it sets a seed itself, leave that to --seed"))
    teacher = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    teacher = replace(teacher, output_mask=loaded.output_mask)
    return replace(loaded, module=teacher.module), weights, teacher  # the module had a second copy of the values


def _open_inputs(
    config: PruneConfig,
    method: Method,
    loaded: LoadedModel,
    known: Normalisation | None,
    sources: Sources,
    on_event: EventSink,
) -> Inputs | None:
    """The inputs; `None` if the method needs none and none are named.

    Raises:
        UsageError: if there are no inputs and an option needs them.
    """
    named = config.data is not None or loaded.data is not None or sources.has_data
    if not named and (method.needs == "nothing" or (method.needs == "shape" and loaded.input_shape is not None)):
        for name in READ_WITH_INPUTS:
            if config.gives(name):
                what = f"method {config.method} needs no data to read it, and none is named"
                raise UsageError(as_typed(config, name), what, hint="leave it out, or name data with --data")
        note_inputs(None, known, on_event)
        return None
    labelled = method.needs == "labels"
    samples = sources.load_samples(config, loaded, split="train", labelled=labelled)
    device = pick_device(config.device)
    inputs = open_inputs(samples, device=device, known=known, on_event=on_event, labelled=labelled)
    require_samples(inputs, 1 if samples.successive else 4 if config.steps == "auto" else 2)
    return inputs


def _example(inputs: Inputs | None, loaded: LoadedModel, teacher: FunctionalModel) -> Batch | None:
    """A batch of few samples: of the inputs, or noise of the network's input shape; `None` without both."""
    if inputs is not None:
        return inputs.batch(torch.arange(min(2, len(inputs))))
    if loaded.input_shape is None:
        return None
    like = next(iter(teacher.params.values()))
    drawn = torch.randn(2, *loaded.input_shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    return drawn.to(like.device)


def _of_whole_batches(
    config: PruneConfig, method: Method, settings: TransferSettings, inputs: Inputs
) -> TransferSettings:
    """The settings where the data gives whole batches: a step takes one for each half, and each process its own.

    Raises:
        UsageError: if an option or the method needs batches that can be divided.
    """
    spec = inputs.samples.spec
    if config.micro_batch is not None:
        hint = "leave it out, and let the data give smaller batches"
        raise UsageError("--micro-batch", f"the batches of {spec} cannot be divided", hint=hint)
    if config.compile:
        raise UsageError(
            "--compile", f"compiles anew for every shape, and the batches of {spec} differ", hint=LEAVE_OUT
        )
    if method.needs == "labels":
        hint = "choose a method without labels, or give samples of one shape"
        raise UsageError(f"--method {config.method}", f"needs a label a sample; {spec} gives whole batches", hint=hint)
    size = config.batch_size or 2 * this_process_group().size
    steps = settings.steps if config.epochs is None else max(1, math.ceil(config.epochs * len(inputs) / size))
    return replace(settings, batch_size=size, steps=steps)


def _check_sparsity(config: PruneConfig, shapes: Mapping[str, torch.Size], settings: TransferSettings) -> None:
    sizes, least = layer_sizes(shapes), least_of(shapes, settings.slices)
    try:
        total_to_keep(sizes, density=settings.density, least=least)
    except ValueError as error:
        most = math.floor((1 - sum(least.values()) / sum(sizes.values())) * 1e6) / 1e6
        what = f"is too high for this model: {error}"
        raise UsageError(f"--sparsity {config.sparsity}", what, hint=f"use at most {most:g}") from error
    scores = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        allocate(
            "layerwise", scores, density=settings.density, layer_density=settings.layer_density, slices=settings.slices
        )
    except ValueError as error:
        hint = "change either, or give --layer-density for fewer layers"
        raise UsageError(f"--sparsity {config.sparsity} with --layer-density", str(error), hint=hint) from error

"""A prune run before it starts: everything found, settled and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ntt_cli.config import DataOptions, PruneConfig, as_typed, method_class
from ntt_cli.data import Samples
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.labels import by_name
from ntt_cli.errors import UsageError
from ntt_cli.evaluation.agreement import number_of_choices
from ntt_cli.files.metadata import Normalisation
from ntt_cli.kernels.checks import find_kernel
from ntt_cli.masks.allocation import allocate, layer_sizes, least_of, total_to_keep
from ntt_cli.methods.base import Method, MethodContext
from ntt_cli.methods.ntt.settings import TransferSettings, settle
from ntt_cli.networks.batch_norm import has_untrained_statistics
from ntt_cli.networks.checks import check_forward, require_samples
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import (
    Weights,
    describe_sparse_teacher,
    heeds_seed,
    open_weights,
    warn_of_filled_zeros,
)
from ntt_cli.networks.normalisation import known_normalisation, note_inputs, open_inputs
from ntt_cli.networks.prepare import estimate_buffers, laid_out, looked_up, pick_prunable, to_functional, whole_slices
from ntt_cli.runs.run import Run
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.compiled_code import keep_compiled_code_private
from ntt_cli.runtime.device import pick_device
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Params

FRESH_SEED = 1_000_003
"""Added to the seed for another draw of the initialisation."""

READ_WITH_INPUTS = (
    *(name for name in DataOptions.model_fields if name not in {"mean", "std"}),
    "logits",
    "micro_batch",
    "kernels",
)
"""Options that only work on inputs reads; mean and deviation are recorded in any case."""


@dataclass(frozen=True)
class PruneJob:
    """A prune run, ready to start.

    Attributes:
        config: as the user gave it.
        sources: of the network and the data.
        method: how masks are chosen.
        loaded: the model's source; its module has shapes alone.
        weights: the teacher's.
        teacher: calibrated, on its device.
        inputs: with labels only for a method that needs them; `None` where it needs no inputs and none were named.
        normalisation: what the network's inputs go through, where that is known.
        class_names: what the network's outputs stand for, where that is known or the method saw it.
        names: the prunable weights.
        looked_up: those of them that are embeddings or tables.
        classes: of which the outputs choose one; `None` where they do not.
        outputs: number of logits, of one sample; 0 without inputs.
        with_kernels: the networks' kernels are looked at in the end.
        has_kernel: that is so, and products with them can be taken.
        settings: of the method, every default settled.
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
    classes: int | None
    outputs: int
    with_kernels: bool
    has_kernel: bool
    settings: TransferSettings

    @property
    def sizes(self) -> dict[str, int]:
        """Entries of each prunable weight."""
        return {name: self.teacher.params[name].numel() for name in self.names}

    def context(self, run: Run) -> MethodContext:
        """What the method may look at, with a generator at its beginning."""
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

    Args:
        config: as the user gave it.
        on_event: told what there is to say.
        sources: objects in the place of names.
        method: the one that the configuration names, made already.

    Raises:
        UsageError: if an option would do nothing.
        NttError: if anything else is unusable.
    """
    method = method or method_class(config.method)()
    if config.compile:
        keep_compiled_code_private()
    device = pick_device(config.device)
    loaded = sources.load_model(config, seed=config.seed)
    weights = open_weights(sources.weights_of(config.weights), loaded, on_event)
    describe_sparse_teacher(weights, on_event, sparsity=config.sparsity)
    _check_origin(config, method, loaded, weights, sources, on_event)
    teacher = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    loaded = replace(loaded, module=teacher.module)  # the same without the values, of which there are two now
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    samples, inputs = _open(config, method, loaded, sources), None
    if samples is None:
        note_inputs(None, known, on_event)
    else:
        inputs = open_inputs(samples, device=device, known=known, on_event=on_event, labelled=method.needs == "labels")
        require_samples(inputs, 4 if config.steps == "auto" else 2)
    shape = check_forward(teacher, inputs, on_event, where=config.model) if inputs else ()
    outputs = math.prod(shape) if inputs else 0
    if inputs:
        teacher = laid_out(teacher, inputs)
    names = pick_prunable(teacher, inputs, on_event, exclude=config.exclude, include=config.include, where=config.model)
    class_names = weights.class_names
    if inputs:
        warn_of_filled_zeros(teacher, inputs.batch(torch.arange(1)), names, on_event)
    if inputs and method.needs == "labels":
        inputs = replace(
            inputs, samples=by_name(inputs.samples, class_names, on_event, purpose="the mask is chosen by")
        )
        class_names = inputs.samples.class_names
        CLASSIFICATION.check(inputs, on_event, shape=shape, purpose=f"--method {config.method} needs them")
    settings = settle(
        config,
        teacher,
        names,
        samples=len(inputs) if inputs else 0,
        trained=weights.trained,
        allocation=method.allocation,
    )
    rows_of = looked_up(teacher, inputs, names)
    settings = replace(settings, slices=whole_slices(teacher, inputs, names, rows_of))
    _check_sparsity(config, {name: teacher.params[name].shape for name in names}, settings)
    matched = method.moves_weights and config.sparsity > 0 and settings.objective.kernel_weight > 0
    with_kernels = matched or config.kernels
    has_kernel = (
        inputs is not None
        and with_kernels
        and find_kernel(teacher, inputs, on_event, outputs=outputs, matched=matched, where=config.model)
    )
    if inputs is not None and has_untrained_statistics(teacher):
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
        classes=number_of_choices(shape, loaded, inputs) if inputs else None,
        outputs=outputs,
        with_kernels=with_kernels,
        has_kernel=has_kernel,
        settings=settings,
    )


def _check_origin(
    config: PruneConfig,
    method: Method,
    loaded: LoadedModel,
    weights: Weights,
    sources: Sources,
    on_event: EventSink,
) -> None:
    """Warn of a factory whose weights are the same under every seed, as trained ones are.

    Raises:
        UsageError: if the method would draw other weights, and there is one set alone.
    """
    if method.reinitialises and (weights.origin == "factory" or sources.model is not None):
        only = "is one network alone" if sources.model is not None else "says TRAINED: it always builds the same"
        raise UsageError(
            f"--method {config.method}",
            f"puts the mask on other random weights, and {config.model} {only}",
            hint="choose another method",
        )
    if sources.model is not None or weights.origin != "random":
        return
    if not heeds_seed(loaded.module, config, seed=config.seed):
        on_event(
            Warned(
                f"{config.model} builds the same weights under every seed. If they are trained, write TRAINED = True in"
                " model.py, and NTT matches outputs alone, as with --weights; if it sets a seed itself, leave that to"
                " --seed"
            )
        )


def _open(config: PruneConfig, method: Method, loaded: LoadedModel, sources: Sources) -> Samples | None:
    """The samples; `None` where the method needs none and none are named.

    Raises:
        UsageError: if there are none for an option that works on them.
    """
    named = config.data is not None or loaded.data is not None or sources.has_data
    if not named and (method.needs == "nothing" or (method.needs == "shape" and loaded.input_shape is not None)):
        for name in READ_WITH_INPUTS:
            if config.gives(name):
                what = f"method {config.method} needs no data to read it, and none is named"
                raise UsageError(as_typed(config, name), what, hint="leave it out, or name data with --data")
        return None
    return sources.load_samples(config, loaded, split="train", labelled=method.needs == "labels")


def _check_sparsity(config: PruneConfig, shapes: Mapping[str, torch.Size], settings: TransferSettings) -> None:
    sizes, least = layer_sizes(shapes), least_of(shapes, settings.slices)
    try:
        total_to_keep(sizes, density=settings.density, least=least)
    except ValueError as error:
        raise UsageError(
            f"--sparsity {config.sparsity}",
            f"is too high for this model: {error}",
            hint=f"use at most {math.floor((1 - sum(least.values()) / sum(sizes.values())) * 1e6) / 1e6:g}",
        ) from error
    scores = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        allocate(
            "layerwise", scores, density=settings.density, layer_density=settings.layer_density, slices=settings.slices
        )
    except ValueError as error:
        raise UsageError(
            f"--sparsity {config.sparsity} with --layer-density",
            str(error),
            hint="change either, or set fewer layers by hand",
        ) from error

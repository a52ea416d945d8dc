"""Prepare an evaluation: find and check its inputs and resolve its defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ntt_cli.config import LEAVE_OUT, EvaluateConfig, as_typed
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.labels import by_name, warn_of_order
from ntt_cli.errors import DataError, UsageError
from ntt_cli.networks.checks import check_forward, require_samples
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import Weights, fixed_masks, open_weights
from ntt_cli.networks.normalisation import known_normalisation, open_inputs
from ntt_cli.networks.prepare import to_functional
from ntt_cli.runs.sources import Sources
from ntt_cli.runtime.device import pick_device
from ntt_cli.runtime.events import EventSink
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Masks


@dataclass(frozen=True)
class EvaluateJob:
    """An evaluation, ready to start.

    Attributes:
        loaded: the network as its source built it.
        masks: of the weights whose zeros count as pruned, on the CPU.
        model: the network, on its device.
        inputs: with labels numbered by the network's classes, if there are labels.
        shape: of one sample's outputs.
    """

    config: EvaluateConfig
    sources: Sources
    loaded: LoadedModel
    weights: Weights
    masks: Masks
    model: FunctionalModel
    inputs: Inputs
    shape: tuple[int, ...]


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
    weights = open_weights(sources.weights_of(config.checkpoint), loaded, on_event)
    masks = fixed_masks(weights, loaded.module, config, on_event)
    model = to_functional(loaded.module, device, on_event, select_outputs=loaded.select_outputs)
    known = known_normalisation(config, loaded, weights.checkpoint, on_event)
    samples = sources.load_samples(config, loaded, split=config.split)
    inputs = open_inputs(samples, device=device, known=known, on_event=on_event)
    if samples.normalised and config.mean is not None:
        raise UsageError("--mean", f"does nothing to {samples.spec}", hint="leave out --mean and --std")
    if samples.split is None and config.gives("split"):
        what = f"the data {samples.spec} is not divided into parts"
        raise UsageError(as_typed(config, "split"), what, hint=LEAVE_OUT)
    require_samples(inputs, 2 if config.kernels else 1)  # a kernel needs two samples
    shape = check_forward(model, inputs, on_event, where=config.model)
    known_names = class_names or weights.class_names
    inputs = replace(inputs, samples=by_name(samples, known_names, on_event, purpose="accuracy is over"))
    if inputs.samples.labels is not None or config.min_accuracy is not None:
        CLASSIFICATION.check(inputs, on_event, shape=shape, purpose="accuracy is measured with them")
        if known_names is None:
            warn_of_order(inputs.samples, on_event, outputs=shape[-1])
    elif config.teacher is None:
        folder = inputs.samples.only_folder
        why = f" (its one sub-folder, {folder}, is no class that the network is known to have)" if folder else ""
        what = f"has no labels{why}, and there is no teacher to compare with"
        hint = "name labelled data with --data, or the dense weights with --teacher"
        raise DataError(samples.spec, what, hint=hint)
    return EvaluateJob(config, sources, loaded, weights, masks, model, inputs, shape)

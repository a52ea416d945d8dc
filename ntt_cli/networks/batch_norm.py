"""Batch-norm statistics from unlabelled data."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ntt_cli.data.batch import Batch, arguments, batch_size
from ntt_cli.data.bundle import Bundle
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.tensors import Params

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def estimate_statistics(model: FunctionalModel, params: Params, buffers: Params, batches: Iterable[Batch]) -> Params:
    """Buffers whose running statistics are the plain average over `batches` at `params`; the others are unchanged.

    As in training, each layer normalises by the statistics of the batch, but Dropout stays off. A batch of one sample
    has no variance and is skipped.
    """
    averaged = untrained_statistics(model, buffers)
    with torch.no_grad(), _averaging(model):
        for batch in batches:
            if isinstance(batch, Bundle):
                for part in batch.parts:
                    with suppress(ValueError):  # of a layer that sees one value a channel
                        _pass(model, params, averaged, part)
            elif batch_size(batch) > 1:
                _pass(model, params, averaged, batch)
    return buffers | {name: averaged[name] for name in running_statistics(model.module)}


def _pass(model: FunctionalModel, params: Params, buffers: Params, x: Any) -> None:
    functional_call(model.module, model.placed(params, buffers), *arguments(x, model.module), tie_weights=False)


@contextmanager
def _averaging(model: FunctionalModel) -> Generator[None]:
    # The module itself, not a copy: some networks keep results of their last pass, which cannot be copied.
    layers = _batch_norm_layers(model.module).values()
    before = [(layer, layer.training, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.training = True
            layer.momentum = None  # a cumulative average instead of an exponential one
        yield
    finally:
        for layer, training, momentum in before:
            layer.training, layer.momentum = training, momentum


def with_variances_of_at_least(least: float, buffers: Params, reference: Params) -> Params:
    """Buffers whose running variances are at least the fraction `least` of the reference's.

    A channel whose weights are all pruned has variance 0. Its values would be divided by the square root of `eps`, and
    its pruned weights would dominate the kernel.
    """
    return {
        name: torch.maximum(value, least * reference[name]) if name.rpartition(".")[2] == "running_var" else value
        for name, value in buffers.items()
    }


def untrained_statistics(model: FunctionalModel, buffers: Params) -> Params:
    """Copies of the buffers, with running statistics as before any batch: mean 0 and variance 1."""
    copies = {name: value.clone() for name, value in buffers.items()}
    for name in running_statistics(model.module):
        copies[name].fill_(name.endswith("running_var"))
    return copies


def running_statistics(module: nn.Module) -> list[str]:
    """The names of running statistics and of their counters."""
    return [
        f"{path}{kind}"
        for path in _batch_norm_layers(module)
        for kind in ("running_mean", "running_var", "num_batches_tracked")
    ]


def is_statistic(name: str) -> bool:
    """Whether a buffer of this name holds running statistics, which must be finite like trained parameters.

    Other buffers may be infinite: causal masks hold infinity, and best values and observers' ranges begin with it.
    """
    return name.rpartition(".")[2] in {"running_mean", "running_var"}


def has_batch_norm(model: FunctionalModel) -> bool:
    """Whether any layer normalises by running batch statistics."""
    return bool(_batch_norm_layers(model.module))


def has_untrained_statistics(model: FunctionalModel) -> bool:
    """Whether any running statistics are as before any batch, mean 0 and variance 1.

    The counter of batches cannot tell: weights from elsewhere often lack it.
    """
    for path in _batch_norm_layers(model.module):
        mean, variance = model.buffers[f"{path}running_mean"], model.buffers[f"{path}running_var"]
        if (mean == 0).all() and (variance == 1).all():
            return True
    return False


def coupling_layers(model: FunctionalModel) -> tuple[str, ...]:
    """Names of layers that couple the samples of a batch even in evaluation: batch norms without running statistics."""
    return tuple(
        name
        for name, layer in model.module.named_modules()
        if isinstance(layer, _BATCH_NORM) and layer.running_mean is None
    )


def _batch_norm_layers(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The layers that keep running statistics, by the beginning of their buffers' names."""
    return {
        f"{name}.".lstrip("."): layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BATCH_NORM) and layer.running_mean is not None
    }

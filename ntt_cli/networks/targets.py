"""Networks that compute their losses themselves: in training they take the targets, as torchvision's detectors do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from ntt_cli.data.batch import argument_names, arguments, call
from ntt_cli.networks.outputs import Heads, SelectOutputs

TARGETS = "targets"
"""The name of the argument."""


@dataclass(frozen=True)
class WithTargets:
    """What such a network returns for a batch: in training mode with the targets, and without them."""

    losses: Any
    returned: Any = None


def losses_in(outputs: Any) -> Any:
    """What a loss is computed from."""
    return outputs.losses if isinstance(outputs, WithTargets) else outputs


def returned_in(outputs: Any) -> Any:
    """What metrics are computed from."""
    return outputs.returned if isinstance(outputs, WithTargets) else outputs


def takes_targets(module: nn.Module, select_outputs: SelectOutputs) -> bool:
    """Whether a network has such an argument, and returns nothing else that a loss could be computed from."""
    without = isinstance(select_outputs, Heads) and select_outputs.layers is not None
    return without and TARGETS in chain(*argument_names(module))


def call_to_train(module: nn.Module, x: Any, targets: Any, select_outputs: SelectOutputs) -> Any:
    """What a network in training mode returns for a batch; `WithTargets` if it takes the targets."""
    if not takes_targets(module, select_outputs):
        return call(module, x)
    positional, named = with_targets(x, targets, module)
    return WithTargets(module(*positional, **named))


def with_targets(x: Any, targets: Any, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for a batch and its targets, which are those of each sample, in a list."""
    positional, named = arguments(x, module)
    if isinstance(targets, Mapping):
        n = len(next(iter(targets.values())))
        targets = [{name: value[i] for name, value in targets.items()} for i in range(n)]
    return positional, {**named, TARGETS: targets}


@contextmanager
def giving_losses(module: nn.Module) -> Generator[None]:
    """Training mode, in which a network returns its losses, but torch's layers as in evaluation.

    So batch normalisation does not move its statistics, and Dropout is off.
    """
    before = {layer: layer.training for layer in module.modules()}
    for layer in before:
        layer.training = not type(layer).__module__.startswith("torch.nn.")
    try:
        yield
    finally:
        for layer, training in before.items():
            layer.training = training


def call_to_measure(
    module: nn.Module, run: Callable[..., Any], x: Any, targets: Any, select_outputs: SelectOutputs
) -> Any:
    """What `run`, a pass through the module in evaluation mode, returns; `WithTargets` if it takes the targets."""
    positional, named = arguments(x, module)
    returned = run(*positional, **named)
    if not takes_targets(module, select_outputs):
        return returned
    positional, named = with_targets(x, targets, module)
    with giving_losses(module):
        return WithTargets(run(*positional, **named), returned)

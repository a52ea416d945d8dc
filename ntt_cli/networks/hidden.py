"""What blocks inside a network return, for a student to match beside its outputs.

They say more about a sample than its few outputs do, so that a student needs fewer samples (Romero et al. 2015, arXiv
1412.6550; docs/notebook/29-few-images.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.layer_outputs import hooks
from ntt_cli.networks.outputs import ONLY, Heads, LayersOf, heads_in, tensors_in

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that say nothing of their own: their members are the blocks of a network."""

SIDE = 4
"""Maps `[n, c, h, w]` are averaged to at most so many places a side: they take less memory, and are as good."""

PREFIX = "hidden."
RETURNED = "returned"


def with_hidden_heads(model: FunctionalModel, weights: Collection[str], x: Batch) -> FunctionalModel:
    """The network with what its blocks return as further heads, `hidden.NAME`; itself if it has no such blocks.

    Of a block that returns several tensors, the first with a row for each sample counts: the others are states and
    attentions. A block that is called several times is left out, and so is one that makes the outputs.

    Args:
        model: the network, whose heads are known.
        weights: its prunable weights. Blocks without any of them are left out.
        x: samples for one pass, which shows the shapes.
    """
    assert model.heads is not None
    own, blocks = model.heads, blocks_of(model.module, weights)
    with torch.no_grad():
        returned, captured = _captured(model.module, blocks, own.layers, lambda: model.returned(x))
    outputs = list(tensors_in({"": own(returned)}).values())
    fields: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in captured.items():
        field, head = next(iter(heads_in(value, batch_size(x)).items()), (ONLY, None))
        if head is not None and not any(head.shape == o.shape and torch.equal(head, o) for o in outputs):
            fields[name], shapes[PREFIX + name] = field, tuple(averaged(head).shape[1:])
    if not shapes:
        return model
    heads = Heads(_WithHidden(own), {**own.shapes, **shapes}, _Captured(own.layers, fields), own)
    return replace(model, select_outputs=heads)


def blocks_of(module: nn.Module, weights: Collection[str]) -> tuple[str, ...]:
    """The members of `Sequential`, `ModuleList` and `ModuleDict` that hold some of the weights and not all of them.

    Members of members count as the outer one, unless that is a container too. Without containers, they are the layers
    that have the weights.
    """

    def members(prefix: str, layer: nn.Module) -> Iterator[str]:
        for child, inner in layer.named_children():
            name = f"{prefix}.{child}".lstrip(".")
            held = sum(weight.startswith(f"{name}.") for weight in weights)
            is_block = isinstance(layer, CONTAINERS) and not isinstance(inner, CONTAINERS) and held < len(weights)
            if held:
                yield from [name] if is_block else members(name, inner)

    return tuple(members("", module)) or tuple(dict.fromkeys(weight.rpartition(".")[0] for weight in weights))


def _captured(
    module: nn.Module, names: Collection[str], own: LayersOf | None, run: Callable[[], Any]
) -> tuple[Any, dict[str, Any]]:
    """What the network returns, or its layers if these count, and what each block that is called once returns."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    with hooks(module, list(names), lambda name, value: found[name].append(value)):
        returned = run() if own is None else own(module, run)
    return returned, {name: calls[0] for name, calls in found.items() if len(calls) == 1}


@dataclass(frozen=True)
class _Captured:
    """What a network and its blocks return; see `LayersOf`.

    Attributes:
        own: gives what layers return, if they count in place of what the network returns.
        fields: by block, the name of the tensor that is meant in what it returns.
    """

    own: LayersOf | None
    fields: Mapping[str, str]

    def __call__(self, module: nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
        returned, captured = _captured(module, self.fields, self.own, run)
        chosen = {
            name: v if isinstance(v, Tensor) else tensors_in(v)[self.fields[name]] for name, v in captured.items()
        }
        return {RETURNED: returned, **{name: averaged(value) for name, value in chosen.items()}}


def averaged(value: Tensor) -> Tensor:
    """Maps `[n, c, h, w]` averaged to at most `SIDE` places a side; anything else as it is."""
    if value.ndim != 4 or max(value.shape[2:]) <= SIDE:
        return value
    height, width = (min(SIDE, side) for side in value.shape[2:])
    return F.adaptive_avg_pool2d(value, (height, width))


@dataclass(frozen=True)
class _WithHidden:
    """The network's own heads and the hidden ones, from what `_Captured` gives."""

    own: Heads

    def __call__(self, captured: dict[str, Any]) -> dict[str, Tensor]:
        selected = self.own(captured[RETURNED])
        own = {next(iter(self.own.shapes)): selected} if isinstance(selected, Tensor) else selected
        return {**own, **{PREFIX + name: value for name, value in captured.items() if name != RETURNED}}

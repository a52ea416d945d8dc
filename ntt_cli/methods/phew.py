"""PHEW, paths with higher edge weights: the weights on random walks through the network. Patil & Dovrolis 2021."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ntt_cli.data.batch import Batch, map_batch, rebuilt, tensors_of
from ntt_cli.errors import ModelError, listed
from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.networks.batch_norm import untrained_statistics
from ntt_cli.tensors import Apply, Masks, Params

WALKS = 64
"""Walks at a time."""

PATIENCE = 10
"""Rounds of walks without a new weight, after which the rest is filled up by magnitude."""

Layer = Callable[[Tensor, Tensor], Tensor]
"""A layer without its bias, as a function of its inputs and its weight."""

_LAYERS: frozenset[Any] = frozenset({
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
})


@register_method("phew")
class PHEW(Method):
    """The weights on random walks between inputs and outputs, each step with probability in proportion to `|w|`."""

    needs = "shape"

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        """`phew_scores` with batch norm by the statistics of an untrained network, in double precision."""
        buffers = untrained_statistics(context.teacher, context.teacher.buffers)
        doubled = {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}
        return phew_scores(
            context.teacher.bind(doubled),
            context.params,
            context.names,
            context.ones(),
            density=context.settings.density,
            generator=context.generator,
        )


def phew_scores(
    apply: Apply, params: Params, names: Sequence[str], ones: Batch, *, density: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """The earlier a walk first visits a weight, the higher its score. Patil & Dovrolis 2021, arXiv 2010.11354.

    Walks begin at each output unit in turn, and at each input unit in turn, until they have visited `density` of the
    weights. A walk that arrives at a unit goes on along one of its weights, in proportion to their absolute values. In
    a convolution, the unit is a channel at one position, and the step a weight of its kernel. Where a network adds two
    branches, a walk from an output follows both; a walk from an input takes one of the two after the sum.
    Weights of one round of `WALKS` walks, and those that no walk visited, are ordered by magnitude.

    Raises:
        ModelError: if a weight is used by something else than a Linear or convolution, where walks cannot go.
    """
    leaves = {name: p.detach().double().abs().requires_grad_() for name, p in params.items()}
    walks = _Walks(leaves, generator)
    wanted = density * sum(params[name].numel() for name in names)
    batch = map_batch(lambda part: part.expand(WALKS, *part.shape[1:]).clone(), ones)
    found, idle = 0, 0
    for number in count():
        starts = torch.arange(WALKS) + number // 2 * WALKS
        if number % 2 and any(part.is_floating_point() for part in tensors_of(batch)):
            _walk_forwards(apply, leaves, batch, starts, walks)
        else:
            _walk_backwards(apply, leaves, batch, starts, walks)
        if missing := [name for name in names if name not in walks.rounds]:
            what = f"walks cannot follow {listed(missing)}: no Linear or convolution uses them as they are"
            hint = "another --method, such as synflow, or --exclude them"
            raise ModelError("the network", what, hint=hint)
        walks.number += 1
        before, found = found, sum(int((walks.rounds[name] >= 0).sum()) for name in names)
        idle = idle + 1 if found == before else 0
        if found >= wanted or idle == PATIENCE:
            break
    return {name: _by_round(walks.rounds[name], leaves[name].detach(), walks.number) for name in names}


def _by_round(rounds: Tensor, magnitude: Tensor, last: int) -> Tensor:
    order = torch.where(rounds < 0, 0, last - rounds)
    return order + magnitude / magnitude.max().clamp_min(torch.finfo(magnitude.dtype).tiny) / 2


def _walk_backwards(apply: Apply, leaves: Params, batch: Batch, starts: Tensor, walks: _Walks) -> None:
    with torch.enable_grad(), walks:
        outputs = apply(leaves, batch)
    units = F.one_hot(starts % outputs.shape[1], outputs.shape[1]).to(outputs)
    torch.autograd.grad(outputs, list(leaves.values()), units, allow_unused=True)


def _walk_forwards(apply: Apply, leaves: Params, batch: Batch, starts: Tensor, walks: _Walks) -> None:
    parts = tensors_of(batch)
    sizes = [part[0].numel() if part.is_floating_point() else 0 for part in parts]
    units = F.one_hot(starts % sum(sizes), sum(sizes)).to(leaves[next(iter(leaves))]).split(sizes, dim=1)
    with torch.no_grad(), fwAD.dual_level(), walks:
        moving = [
            fwAD.make_dual(part, unit.view_as(part)) if size else part
            for part, unit, size in zip(parts, units, sizes, strict=True)
        ]
        apply(leaves, rebuilt(batch, moving))


class _Walks(TorchFunctionMode):
    """Makes walks of what goes through Linear layers and convolutions: a gradient from outputs, or a tangent to them.

    Attributes:
        rounds: for each weight, the number of the round in which it was first visited; -1: not yet.
        number: the number of this round.
    """

    def __init__(self, leaves: Params, generator: torch.Generator) -> None:
        super().__init__()
        self.rounds: dict[str, Tensor] = {}
        self.number = 0
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _LAYERS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
        x, weight = given.pop("input"), given.pop("weight")
        given.pop("bias", None)
        name = self._names.get(id(weight))
        if name is not None:
            self.rounds.setdefault(name, torch.full(weight.shape, -1, device=weight.device))
        return _Step.apply(x, weight, self, name, lambda x, weight: func(x, weight, None, *args[3:], **given))

    def back(self, name: str | None, layer: Layer, x: Tensor, weight: Tensor, arrived: Tensor) -> Tensor:
        """One input unit for each walk, as a batch of one-hot inputs, from the outputs that walks arrived at."""
        output = self._one_of(arrived)
        with torch.enable_grad():
            inputs = torch.zeros_like(x).requires_grad_()
            (along,) = torch.autograd.grad(layer(inputs, weight), inputs, output)
        chosen = self._one_of(along)
        self._visit(name, layer, chosen, weight, output)
        return chosen

    def forth(self, name: str | None, layer: Layer, weight: Tensor, arrived: Tensor) -> Tensor:
        """One output unit for each walk, as a batch of one-hot outputs, from the inputs that walks arrived at."""
        chosen = self._one_of(arrived)
        output = self._one_of(layer(chosen, weight))
        self._visit(name, layer, chosen, weight, output)
        return output

    def _visit(self, name: str | None, layer: Layer, chosen: Tensor, weight: Tensor, output: Tensor) -> None:
        """Note the weights between the chosen inputs and outputs: the derivatives of their products count them."""
        if name is None:
            return
        with torch.enable_grad():
            leaf = weight.detach().requires_grad_()
            (steps,) = torch.autograd.grad(layer(chosen, leaf), leaf, output)
        self.rounds[name][(steps != 0) & (self.rounds[name] < 0)] = self.number

    def _one_of(self, units: Tensor) -> Tensor:
        """One unit of each walk, in proportion to the absolute values, as 1 among zeros; none where all are 0."""
        edges = units.detach().abs().flatten(1).cumsum(dim=1)
        aim = torch.rand(len(edges), 1, generator=self._generator, dtype=edges.dtype).to(edges.device) * edges[:, -1:]
        index = torch.searchsorted(edges, aim, right=True).clamp_max(edges.shape[1] - 1)
        alive = (edges[:, -1:] > 0).to(edges)
        return torch.zeros_like(edges).scatter_(1, index, alive).view_as(units)


class _Step(torch.autograd.Function):
    """A layer whose derivatives, in either direction, are one step of each walk."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, walks: _Walks, name: str | None, layer: Any) -> Tensor:
        ctx.walks, ctx.name, ctx.layer, ctx.values = walks, name, layer, (x.detach(), weight.detach())
        result: Tensor = layer(x, weight)
        return result

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor) -> Any:
        return ctx.walks.back(ctx.name, ctx.layer, *ctx.values, *arrived), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        arrived = tangents[0]
        return None if arrived is None else ctx.walks.forth(ctx.name, ctx.layer, ctx.values[1], arrived)

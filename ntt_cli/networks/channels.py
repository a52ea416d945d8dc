"""The channels of a network that can be removed, and the smaller network without them.

Torch-Pruning finds which layers depend on each other, and cuts them (Fang et al. 2023, arXiv 2301.12900). It takes an
operation that it does not know for one that acts on each channel alone. So each group is tried: with random weights,
the network with every second channel set to zero must equal the smaller network. Groups that fail are tried as heads of
an attention (`attention.py`), and left out if that fails, too. Such are channels that a LayerNorm divides by all of.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from jaxtyping import Bool
from torch import Tensor, nn

from ntt_cli.data.batch import Batch, arguments, parts_of
from ntt_cli.data.bundle import map_tensors
from ntt_cli.errors import ModelError
from ntt_cli.files.metadata import ChannelRecord
from ntt_cli.masks.channels import ChannelGroup
from ntt_cli.networks.attention import attention_groups, grouped_by_heads, remove_heads, tell_heads
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.dependencies import NOT_THE_SAME, NotFollowedError, count_of, group_with, groups_in
from ntt_cli.networks.functional import FunctionalModel, without_fast_path
from ntt_cli.networks.outputs import tensors_in
from ntt_cli.tensors import Params

_NO_FEWER_HEADS = "the code of its attention takes no fewer heads"

_PRECISIONS = ((torch.float64, 1e-8), (torch.float32, 1e-4))
"""The types in which groups are tried, with the error allowed. Some networks run in single precision alone."""

_ROUNDING = 1e-4
"""How far the outputs of a smaller network may differ at its own values."""


@dataclass(frozen=True)
class Removed:
    """Outputs of a layer that are removed with all that depends on them.

    Attributes:
        outputs: their indices.
        heads: of an attention, how many heads it has, and how many of them are left; otherwise `None`.
        head_width: how many values a head returns.
    """

    outputs: Sequence[int]
    heads: tuple[int, int] | None = None
    head_width: int = 0


RemovedByLayer = Mapping[str, Removed]


@dataclass(frozen=True)
class FoundChannels:
    """The groups of channels that can be removed.

    Attributes:
        groups: each of weights that are prunable, and tried.
        left_out: the layers whose outputs no group removes, with the reason; without those that make the outputs.
    """

    groups: tuple[ChannelGroup, ...]
    left_out: dict[str, str]


def find_channels(
    model: FunctionalModel, x: Batch, names: Collection[str], *, whole: Collection[str] = (), where: str
) -> FoundChannels:
    """The groups of channels that can be removed.

    Args:
        model: the network.
        x: a batch of few samples.
        names: the prunable weights.
        whole: those that must keep an entry in every slice.
        where: the network, as the user named it.

    Raises:
        ModelError: if Torch-Pruning cannot trace the network, or nothing can be removed.
    """
    trial = _Trial.of(model, x, where)
    module = trial.network()
    graph = trial.graph(module, where)
    groups: list[ChannelGroup] = []
    left_out: dict[str, str] = {}
    for layer, found in groups_in(graph):
        reason = found if isinstance(found, str) else _not_prunable(found, names, whole)
        if reason:
            left_out[layer] = reason
        elif isinstance(found, ChannelGroup) and found.size > 1:
            groups.append(found)
    exact = trial.exact_ones(groups)
    exact += trial.exact_ones([group for group in attention_groups(module) if not _not_prunable(group, names, whole)])
    for group in groups:
        if group in exact:
            continue
        by_heads = list(grouped_by_heads(module, group))
        if same := list(itertools.islice((heads for heads in by_heads if trial.exact_ones([heads])), 1)):
            exact += same
        else:
            left_out[group.layer] = _NO_FEWER_HEADS if by_heads else NOT_THE_SAME
    if not exact:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in itertools.islice(left_out.items(), 3))
        what = f"has no channels that can be removed ({reasons or 'no Linear or convolution before its outputs'})"
        raise ModelError(where, what, hint="leave out --structure, which prunes single weights")
    order = [name for name, _ in module.named_modules(remove_duplicate=False)]
    return FoundChannels(tuple(sorted(exact, key=lambda group: order.index(group.layer))), left_out)


def removed_by(records: Mapping[str, ChannelRecord]) -> RemovedByLayer:
    """What a checkpoint records as gone."""
    return {
        layer: Removed(found.removed)
        if found.heads is None
        else Removed(found.removed, (found.heads.heads, found.heads.kept), found.heads.width)
        for layer, found in records.items()
    }


def removed_of(group: ChannelGroup, stays: Bool[Tensor, " channels"]) -> Removed:
    """The outputs of a group's layer that are removed if these channels stay."""
    outputs = group.outputs_of(~stays)
    if group.head_width is None:
        return Removed(outputs)
    return Removed(outputs, (group.size, int(stays.sum())), group.head_width)


def shrink(model: FunctionalModel, removed: RemovedByLayer, x: Batch, *, where: str) -> nn.Module:
    """The network without the outputs `removed` and what depends on them; compared with the whole one on a batch.

    Raises:
        ModelError: if it cannot be cut, or does not give the outputs of the whole network: all that is removed must be
            zero there.
    """
    whole = _Trial(model, _first(x), model.params, model.buffers, _ROUNDING)
    module = whole.network()
    try:
        whole.remove(module, removed, where)
    except (AttributeError, AssertionError, IndexError, NotFollowedError) as failure:
        raise ModelError(
            where, f"has no such channels: {failure}", hint="name the network that was pruned"
        ) from failure
    with torch.no_grad():
        same = whole.agree(whole.outputs(whole.network()), whole.outputs(module))
    if not same:
        what = "does not give the same outputs without the channels that its checkpoint says are gone"
        raise ModelError(where, what, hint="prune it again, or export it with --to packed")
    trainable = {name for name, p in model.module.named_parameters() if p.requires_grad}
    for name, p in module.named_parameters():
        p.requires_grad_(name in trainable)
    return module


@dataclass(frozen=True)
class _Trial:
    """A network at values with which groups are tried.

    Attributes:
        model: the network.
        x: what it takes, on the CPU.
        params: its parameters.
        buffers: its buffers.
        error: how far outputs may differ, relative to the largest.
    """

    model: FunctionalModel
    x: Any
    params: Params
    buffers: Params
    error: float

    @classmethod
    def of(cls, model: FunctionalModel, x: Batch, where: str) -> _Trial:
        """At random weights, in double precision if the network runs in it.

        Raises:
            ModelError: if the network does not run with random weights.
        """
        generator = torch.Generator().manual_seed(0)
        params = {name: _random(p, generator) for name, p in model.params.items()}
        for dtype, error in _PRECISIONS:
            trial = cls(model, _first(x, dtype), _cast(params, dtype), _cast(model.buffers, dtype), error)
            try:
                outputs = trial.outputs(trial.network())
            except Exception as failure:
                reason = failure
                continue
            if all(output.isfinite().all() for output in outputs):
                return trial
            reason = ValueError("its outputs are not finite with random weights")
        raise ModelError(where, f"cannot be tried without some channels: {reason}", hint="leave out --structure")

    def network(self) -> nn.Module:
        """A copy of the network at these values."""
        module = copy_module(self.model.module).eval()
        for name, p in module.named_parameters():
            value = self.params[name] if name in self.params else self.buffers[name]
            p.data = value.detach().cpu().clone()
            p.requires_grad_(p.is_floating_point())  # Torch-Pruning follows the graph of gradients
        for place, _ in module.named_buffers(remove_duplicate=False):
            layer, _, leaf = place.rpartition(".")
            value = self.buffers[self.model.places[place]]
            module.get_submodule(layer)._buffers[leaf] = value.detach().cpu().clone()
        return module

    def outputs(self, module: nn.Module) -> list[Tensor]:
        """All that the network, or one of another size, returns."""
        positional, named = arguments(map_tensors(Tensor.clone, self.x), module)
        layers = None if self.model.heads is None else self.model.heads.layers

        def run() -> Any:
            return module(*positional, **named)

        with without_fast_path():
            returned = run() if layers is None else layers(module, run)
        found = [returned] if isinstance(returned, Tensor) else list(tensors_in(returned).values())
        return [output for output in found if output.is_floating_point()]

    def graph(self, module: nn.Module, where: str) -> Any:
        """Torch-Pruning's graph of the network.

        Raises:
            ModelError: if it cannot trace the network.
        """

        def forward(module: nn.Module, _: Any) -> list[Tensor]:
            return [output for output in self.outputs(module) if output.requires_grad]

        try:
            with warnings.catch_warnings(action="ignore"), torch.enable_grad():
                made = torch_pruning.DependencyGraph()
                return made.build_dependency(module, self.x, forward_fn=forward, verbose=False)
        except Exception as failure:
            reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
            what = f"cannot be traced by Torch-Pruning, which finds what depends on a channel ({reason:.200})"
            raise ModelError(where, what, hint="leave out --structure, which prunes single weights") from failure

    def remove(self, module: nn.Module, removed: RemovedByLayer, where: str) -> None:
        """Remove outputs of layers with all that depends on them, in place."""
        graph = self.graph(module, where)
        for layer, gone in removed.items():
            if not gone.outputs:
                continue
            own = module.get_submodule(layer)
            if max(gone.outputs) >= (size := count_of(graph, own)):
                raise IndexError(f"{layer} has {size} outputs")
            if isinstance(own, nn.MultiheadAttention):
                remove_heads(own, sorted({output // own.head_dim for output in gone.outputs}))
                continue
            group_with(graph, own, gone.outputs).prune()
            if gone.heads is not None:
                heads, left = gone.heads
                tell_heads(module, layer, heads=heads, left=left, width=gone.head_width)

    def exact_ones(self, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
        """The groups without half of whose channels a smaller network gives the same outputs."""
        if not groups or self._is_exact(groups):
            return list(groups)
        if len(groups) == 1:
            return []
        half = len(groups) // 2
        return self.exact_ones(groups[:half]) + self.exact_ones(groups[half:])

    def _is_exact(self, groups: Sequence[ChannelGroup]) -> bool:
        whole, smaller = self.network(), self.network()
        values = dict(whole.named_parameters())
        removed = {}
        with torch.no_grad():
            for group in groups:
                stays = torch.arange(group.size) % 2 == 0
                removed[group.layer] = removed_of(group, stays)
                for part in group.slices:
                    values[part.name].index_fill_(part.axis, part.of(~stays), 0)
        try:
            self.remove(smaller, removed, "")
            with torch.no_grad():
                whole_outputs, smaller_outputs = self.outputs(whole), self.outputs(smaller)
        except Exception:  # a size that the network's code holds no longer fits
            return False
        return self.agree(whole_outputs, smaller_outputs)

    def agree(self, outputs: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
        """Whether outputs are the same up to rounding."""
        return len(outputs) == len(others) and all(
            a.shape == b.shape and bool((a - b).abs().max() <= self.error * a.abs().max())
            for a, b in zip(outputs, others, strict=True)
        )


def _random(p: Tensor, generator: torch.Generator) -> Tensor:
    """Weights of the usual size for their number of inputs; vectors near 1."""
    drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return drawn * p[0].numel() ** -0.5 if p.ndim > 1 else 1 + drawn / 4


def _cast(values: Params, dtype: torch.dtype) -> Params:
    return {name: value.cpu().to(dtype) if value.is_floating_point() else value.cpu() for name, value in values.items()}


def _first(x: Batch, dtype: torch.dtype | None = None) -> Any:
    """The batch, or the first part of a bundle, on the CPU."""
    return map_tensors(lambda t: t.to("cpu", dtype if t.is_floating_point() else None), parts_of(x)[0])


def _not_prunable(group: ChannelGroup, names: Collection[str], whole: Collection[str]) -> str:
    """Why a group cannot be removed; empty if it can."""
    weights = [part.name for part in group.slices if part.is_weight]
    if dense := [name for name in weights if name not in names]:
        return f"{dense[0]} stays dense"
    if fragile := [name for name in weights if name in whole]:
        return f"the network divides by the norm of slices of {fragile[0]}"
    return ""

"""Which layers depend on a channel, as Torch-Pruning says (Fang et al. 2023, arXiv 2301.12900), as plain data."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch_pruning.dependency import Group
from torch_pruning.ops import OPTYPE, TORCH_CONV, TORCH_LINEAR

from ntt_cli.masks.channels import ChannelGroup, Slices

_PASSED_THROUGH = {
    OPTYPE.CONCAT,
    OPTYPE.SPLIT,
    OPTYPE.ELEMENTWISE,
    OPTYPE.RESHAPE,
    OPTYPE.UNBIND,
    OPTYPE.EXPAND,
    OPTYPE.SLICE,
}
_CUT = {OPTYPE.CONV, OPTYPE.DEPTHWISE_CONV, OPTYPE.LINEAR, OPTYPE.BN, OPTYPE.IN, OPTYPE.PRELU}
_REASONS = {
    OPTYPE.LN: "a LayerNorm divides by all of its channels",
    OPTYPE.GN: "a GroupNorm divides by several of its channels",
    OPTYPE.MHA: "an attention layer has as many outputs as inputs",
    OPTYPE.LSTM: "a recurrent layer returns its channels to itself",
}
NOT_THE_SAME = "a smaller network would not give the same outputs"

_MOST = 4
"""A group is given up at so many members for each dependency of the network, or so many indices of a member for each
entry of the longest axis. Those that end stay well below, also where one layer makes queries, keys and values."""


class NotFollowedError(Exception):
    """Torch-Pruning does not come to an end, or fails, or says what cannot be."""


def groups_in(graph: Any) -> Iterator[tuple[str, ChannelGroup | str]]:
    """The layers that make channels, each with its group, or with the reason why its channels cannot be removed.

    Yields:
        layers but those that make the outputs, and those whose channels another layer's group has.
    """
    seen: set[nn.Module] = set()
    for module in list(graph.module2node):
        if module in seen or not isinstance(module, (TORCH_CONV, TORCH_LINEAR)):
            continue
        layer, found = graph._module2name[module], None
        try:
            with _bounded(graph):
                group = group_with(graph, module, range(count_of(graph, module)))
                makes = [graph.is_out_channel_pruning_fn(item.dep.handler) for item in group]
                if not all(makes):
                    found = _as_data(graph, group, layer)
        except NotFollowedError:
            yield layer, "Torch-Pruning cannot follow them"
            continue
        seen |= {item.dep.target.module for item, made in zip(group, makes, strict=True) if made}
        if found is not None:
            yield layer, found


def count_of(graph: Any, module: nn.Module) -> int:
    """Outputs of a layer."""
    count: int = graph.get_pruner_of_module(module).get_out_channels(module)
    return count


def group_with(graph: Any, module: nn.Module, outputs: Iterable[int]) -> Any:
    """These outputs of a layer with all that depends on them, as Torch-Pruning has it, without its warnings.

    Raises:
        NotFollowedError: if it fails.
    """
    cutter = graph.get_pruner_of_module(module)
    with warnings.catch_warnings(action="ignore"):
        try:
            return graph.get_pruning_group(module, cutter.prune_out_channels, list(outputs))
        except Exception as failure:  # of any kind, for a network that its authors did not think of
            raise NotFollowedError(f"{type(failure).__name__}: {failure}") from failure


@contextmanager
def _bounded(graph: Any) -> Generator[None]:
    """Let Torch-Pruning give up on a group that grows without end.

    It takes some reshapes and joins for others, such as those of a Swin transformer's windows or of rotary embeddings,
    and follows an index to ever new ones.

    Raises:
        NotFollowedError: in such a group.
    """
    most_members = _MOST * sum(len(node.dependencies) for node in graph.module2node.values())
    most_indices = _MOST * max(max(p.shape, default=1) for p in graph.model.parameters())
    add = Group.add_dep

    def bounded(group: Any, dep: Any, idxs: Any) -> None:
        if len(group) > most_members or len(idxs) > most_indices:
            raise NotFollowedError
        add(group, dep, idxs)

    Group.add_dep = bounded
    try:
        yield
    finally:
        Group.add_dep = add


def _as_data(graph: Any, group: Any, layer: str) -> ChannelGroup | str | None:
    """The group of a layer's outputs as plain data, or why it cannot be removed; `None` if it makes outputs.

    Raises:
        NotFollowedError: if it has an index that a parameter has not.
    """
    kinds = {item.dep.target.type for item in group}
    if OPTYPE.OUTPUT in kinds:
        return None
    if others := sorted(kinds - _PASSED_THROUGH - _CUT):
        return _REASONS.get(others[0], NOT_THE_SAME)
    items = [item for item in group if item.dep.target.type in _CUT]
    if any(_is_grouped(item.dep.target.module) for item in items):
        return "a grouped convolution has as many channels in each of its groups"
    module, size = group[0].dep.target.module, len(group[0].idxs)
    tied = [group_with(graph, module, [i]) for i in (0, size // 2, size - 1)]
    if all(len(each[0].idxs) == 1 for each in tied):
        roots: tuple[tuple[int, ...], ...] = tuple((i,) for i in range(size))
        owners = [dict(zip(item.idxs, item.root_idxs, strict=True)) for item in items]
    else:
        roots, owners = _tied(graph, module, items)
    names = {id(p): name for name, p in graph.model.named_parameters()}
    slices = []
    for item, owner in zip(items, owners, strict=True):
        part, makes = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        for leaf, axis, uses in _axes(part, makes=makes):
            p = getattr(part, leaf)
            if id(p) not in names:
                return "the network computes their weights from others"
            if max(owner, default=0) >= p.shape[axis]:
                raise NotFollowedError(f"{names[id(p)]} has no index {max(owner)}")
            channel = torch.full((p.shape[axis],), -1)
            for index, root in owner.items():
                channel[index] = root
            slices.append(Slices(names[id(p)], axis, channel, is_weight=p.ndim > 1, uses=uses))
    return ChannelGroup(layer, roots, tuple(slices))


def _tied(graph: Any, module: nn.Module, items: list[Any]) -> tuple[tuple[tuple[int, ...], ...], list[Any]]:
    """The outputs of a layer in sets that live and die together; and the set of each index of each item."""
    roots: list[tuple[int, ...]] = []
    owners: list[dict[int, int]] = [{} for _ in items]
    place = {(id(item.dep.target), item.dep.handler): n for n, item in enumerate(items)}
    seen: set[int] = set()
    for i in range(count_of(graph, module)):
        if i in seen:
            continue
        found = group_with(graph, module, [i])
        for item in found:
            if (n := place.get((id(item.dep.target), item.dep.handler))) is not None:
                owners[n] |= dict.fromkeys(item.idxs, len(roots))
        roots.append(tuple(sorted(found[0].idxs)))
        seen |= set(found[0].idxs)
    return tuple(roots), owners


def _is_grouped(module: nn.Module) -> bool:
    """Whether it is a grouped convolution, but for those with one channel in each group."""
    grouped = isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1
    return grouped and not module.groups == module.in_channels == module.out_channels


def _axes(module: nn.Module, *, makes: bool) -> list[tuple[str, int, bool]]:
    """The parameters of a layer that a channel has slices of, their axis, and whether they use the channel."""
    by_channel = isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1
    if by_channel or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        found = [("weight", 0, False), ("bias", 0, False)]
    else:
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        found = [("weight", int(makes == transposed), not makes)] + [("bias", 0, False)] * makes
    return [part for part in found if getattr(module, part[0], None) is not None]

"""Channels: groups of weights that live and die together, which of them stay, and the masks that follow.

A channel is an output of a layer, such as a filter or a hidden unit, with all that makes it and all that uses it: its
row in the layer, its bias, its scale in a normalisation, and its columns in the layers behind. Layers whose outputs are
added share their channels. `networks/channels.py` finds the groups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ntt_cli.tensors import Masks, Params

BLOCK_SIZES = (8, 4, 2, 1)
"""Channels are removed in blocks of eight, or fewer where the limit cannot be met otherwise.

Runtimes hold activations in blocks of eight channels or more, and calculate a part of a block as a whole one.
`benchmarks/channel_blocks.py` measures what that is worth.
"""


@dataclass(frozen=True)
class Slices:
    """The slices of one parameter that belong to a group.

    Attributes:
        name: of the parameter.
        axis: along which the slices are taken: 0 for what makes a channel, mostly 1 for what uses it.
        channel: by index along the axis, the channel that the slice belongs to; −1 for those of other groups.
        is_weight: whether the parameter has two or more axes; others are vectors, such as biases.
        uses: whether the parameter uses the channel; otherwise it makes it, or is a part of it.
    """

    name: str
    axis: int
    channel: Int64[Tensor, " size"]
    is_weight: bool
    uses: bool

    def of(self, channels: Bool[Tensor, " channels"]) -> Int64[Tensor, " indices"]:
        """The indices along the axis that belong to these channels."""
        return (channels[self.channel.clamp_min(0)] & (self.channel >= 0)).nonzero().flatten()


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that share their layers.

    Attributes:
        layer: a layer that makes them, by which the group is known.
        roots: by channel, its outputs of that layer: one, or several that are tied, as in a gated unit.
        slices: what dies with each channel.
        head_width: where each channel is a head of an attention, the number of values that it returns.
    """

    layer: str
    roots: tuple[tuple[int, ...], ...]
    slices: tuple[Slices, ...]
    head_width: int | None = None

    @property
    def size(self) -> int:
        return len(self.roots)

    def sums(self, values: Mapping[str, Tensor], *, used: bool = False) -> Float[Tensor, " channels"]:
        """By channel, the sum over all of its weights; `used`: over those alone that use it."""
        total = torch.zeros(self.size, dtype=torch.float64)
        for part in self.slices:
            if part.is_weight and (part.uses or not used):
                of_slices = values[part.name].detach().double().movedim(part.axis, 0).flatten(1).sum(1).cpu()
                own = part.channel >= 0
                total.index_add_(0, part.channel[own], of_slices[own])
        return total

    @property
    def outputs(self) -> int:
        """The number of outputs of the layer."""
        return sum(map(len, self.roots))

    def outputs_of(self, channels: Bool[Tensor, " channels"]) -> list[int]:
        """The outputs of the layer that belong to these channels."""
        return sorted(output for i in channels.nonzero().flatten().tolist() for output in self.roots[i])


Kept = Sequence[Bool[Tensor, " channels"]]
"""By group, which of its channels stay."""


@dataclass(frozen=True)
class Channels:
    """The channels of a network, and what their number is limited by.

    Attributes:
        groups: those that can be removed.
        shapes: of all prunable weights.
        flops: the operations of one sample in products with each of these weights, of the whole network.
        other_flops: all other operations.
        by_flops: whether operations limit the number of channels; otherwise the number of weights does.
        left_out: layers whose channels cannot be removed, with the reason.
    """

    groups: tuple[ChannelGroup, ...]
    shapes: Mapping[str, torch.Size]
    flops: Mapping[str, float]
    other_flops: float
    by_flops: bool
    left_out: Mapping[str, str] = field(default_factory=dict)

    def cost(self, kept: Kept) -> float:
        """The cost of the network with these channels, operations or weights, as a fraction of the whole network's."""
        if self.by_flops:
            return self.flops_of(kept) / (sum(self.flops.values()) + self.other_flops)
        share, sizes = self._shares(kept), self._sizes
        return sum(sizes[name] * share[name] for name in sizes) / sum(sizes.values())

    def cost_of_each(self) -> list[Float[Tensor, " channels"]]:
        """By group, what each channel alone costs in the whole network: operations, or weights."""
        costs = self.flops if self.by_flops else self._sizes
        like = {name: torch.full(shape, costs[name] / shape.numel()) for name, shape in self.shapes.items()}
        return [group.sums(like) for group in self.groups]

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: shape.numel() for name, shape in self.shapes.items()}

    def flops_of(self, kept: Kept) -> float:
        """The operations of the network with these channels, for one sample."""
        share = self._shares(kept)
        return sum(flops * share[name] for name, flops in self.flops.items()) + self.other_flops

    def _shares(self, kept: Kept) -> dict[str, float]:
        """The share of each weight that is left: the product of what it keeps along each axis."""
        left = dict.fromkeys(self.shapes, 1.0)
        for (name, _), along in self._along_axes(kept).items():
            if name in left:
                left[name] *= float(along.double().mean())
        return left

    def masks(self, kept: Kept, params: Params) -> Masks:
        """The masks of all prunable weights, and of the vectors among `params` that belong to channels."""
        parts = [part.name for group in self.groups for part in group.slices]
        names = dict.fromkeys([*self.shapes, *parts])
        masks = {name: torch.ones_like(params[name], dtype=torch.bool) for name in names if name in params}
        for (name, axis), along in self._along_axes(kept).items():
            if (whole := masks.get(name)) is None:
                continue
            shape = [-1 if i == axis else 1 for i in range(whole.ndim)]
            whole &= along.view(shape).to(whole.device)
        return masks

    def kept(self, masks: Masks) -> list[Tensor]:
        """Which channels these masks keep: those of which any slice of a weight has an entry left."""
        found = []
        for group in self.groups:
            alive = torch.zeros(group.size, dtype=torch.bool)
            for part in group.slices:
                if part.is_weight:
                    left = masks[part.name].movedim(part.axis, 0).flatten(1).any(1).cpu()
                    alive[part.channel[left & (part.channel >= 0)]] = True
            found.append(alive)
        return found

    def _along_axes(self, kept: Kept) -> dict[tuple[str, int], Bool[Tensor, " size"]]:
        """By parameter and axis, which indices are kept."""
        found: dict[tuple[str, int], Tensor] = {}
        for group, stays in zip(self.groups, kept, strict=True):
            for part in group.slices:
                own = stays.cpu()[part.channel.clamp_min(0)] | (part.channel < 0)
                key = part.name, part.axis
                found[key] = found[key] & own if key in found else own
        return found


def keep_channels(
    channels: Channels, scores: Sequence[Float[Tensor, " channels"]], *, limit: float
) -> list[Bool[Tensor, " channels"]]:
    """Remove the channels with the lowest scores, until the cost is at `limit` or below it.

    The channels of a group are ordered by score, and go in blocks (`BLOCK_SIZES`; at most half of a group), the lowest
    mean over all groups first. Heads go one by one. The first block of each group stays. Blocks that went come back,
    highest mean first, where the limit allows it. Of equal scores the last channel goes first.

    Raises:
        ValueError: if a score is NaN, or the cost is above `limit` with one channel in each group.
    """
    if any(score.isnan().any() for score in scores):
        raise ValueError("a score is NaN")
    for size in BLOCK_SIZES:
        blocks = _Blocks.of(scores, [size if group.head_width is None else 1 for group in channels.groups])
        if channels.cost(blocks.kept(blocks.first)) <= limit:
            return blocks.kept(_best(channels, blocks, limit))
    lowest = channels.cost(blocks.kept(blocks.first))
    raise ValueError(f"{lowest:.4g} is left with the fewest channels")


@dataclass(frozen=True)
class _Blocks:
    """The channels of each group by score, highest first, in blocks that are numbered over all groups.

    Attributes:
        of_channel: by group, the block that each channel is in.
        means: the mean score of each block.
        first: the first block of each group.
    """

    of_channel: list[Int64[Tensor, " channels"]]
    means: Float[Tensor, " blocks"]
    first: set[int]

    @classmethod
    def of(cls, scores: Sequence[Tensor], most: Sequence[int]) -> _Blocks:
        """Blocks of so many channels by group, fewer in small groups."""
        of_channel: list[Tensor] = []
        means: list[float] = []
        first: set[int] = set()
        for score, largest in zip(scores, most, strict=True):
            order = score.argsort(descending=True, stable=True)
            size = next(size for size in BLOCK_SIZES if size <= largest and (2 * size <= len(order) or size == 1))
            parts = score[order].double().split(size)
            numbers = torch.arange(len(order)) // size + len(means)
            first.add(len(means))
            means += [float(part.mean()) for part in parts]
            of_channel.append(torch.empty_like(order).index_copy_(0, order, numbers))
        return cls(of_channel, torch.tensor(means, dtype=torch.float64), first)

    def kept(self, blocks: Collection[int]) -> list[Tensor]:
        """The channels of these blocks."""
        stays = torch.zeros(len(self.means), dtype=torch.bool)
        stays[sorted(blocks)] = True
        return [stays[numbers] for numbers in self.of_channel]


def _best(channels: Channels, blocks: _Blocks, limit: float) -> set[int]:
    """The blocks with the highest means that the limit allows."""
    number = len(blocks.means)
    last_first = torch.arange(number).flip(0)
    order = last_first[blocks.means[last_first].argsort(stable=True)].tolist()
    may_go = [block for block in order if block not in blocks.first]
    few, many = 0, len(may_go)
    while few < many:
        middle = (few + many) // 2
        if channels.cost(blocks.kept({*blocks.first, *may_go[middle:]})) <= limit:
            many = middle
        else:
            few = middle + 1
    found = {*blocks.first, *may_go[many:]}
    for block in reversed(may_go[:many]):
        follows = block - 1 in found  # the blocks of a group before it
        if follows and channels.cost(blocks.kept({*found, block})) <= limit:
            found.add(block)
    return found

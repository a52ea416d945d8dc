"""`--structure channels`: the channels that a run may remove, and the student without them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ntt_cli.config import PruneConfig, method_class, method_names
from ntt_cli.data.batch import Batch
from ntt_cli.errors import UsageError, listed
from ntt_cli.files.metadata import ChannelRecord, HeadsRecord, SliceRecord
from ntt_cli.masks.channels import ChannelGroup, Channels
from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.base import Method, Pruned
from ntt_cli.networks.channels import find_channels
from ntt_cli.networks.flops import flops_by_weight
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.results import ChannelSummary, StructureSummary
from ntt_cli.runtime.events import EventSink, Noted


def require_method(config: PruneConfig, method: Method) -> None:
    """Refuse a method that has no scores from which channels could be chosen.

    Raises:
        UsageError: if it is such a method.
    """
    if config.structure == "channels" and not method.chooses_by_scores():
        able = [name for name in method_names() if method_class(name).chooses_by_scores()]
        what = f"method {config.method} chooses single weights in a way of its own"
        raise UsageError("--structure channels", what, hint=f"choose {', '.join(able)}")


def open_channels(
    config: PruneConfig,
    teacher: FunctionalModel,
    x: Batch | None,
    names: tuple[str, ...],
    slices: Mapping[str, int],
    on_event: EventSink,
) -> Channels:
    """The channels to choose from, with the costs that limit their number; a note says which there are.

    Raises:
        UsageError: if there is no batch to trace the network with, or the limit cannot be met.
        ModelError: if the network cannot be traced, or nothing can be removed.
    """
    if x is None:
        what = "needs inputs to follow through the network"
        raise UsageError("--structure channels", what, hint="name data with --data, or write INPUT_SHAPE in model.py")
    found = find_channels(teacher, x, names, whole=slices, where=config.model)
    left_out = [f"{layer} ({reason})" for layer, reason in found.left_out.items()]
    what = f"can be removed: {_in_words(found.groups)}"
    on_event(Noted(f"{what}; left out: {listed(left_out, 3)}" if left_out else what))
    channels = Channels(
        found.groups,
        {name: teacher.params[name].shape for name in names},
        *flops_by_weight(teacher.bind(), teacher.params, x, names),
        by_flops=config.target_flops is not None,
        left_out=found.left_out,
    )
    _require_limit(config, channels)
    return channels


def _in_words(groups: Sequence[ChannelGroup]) -> str:
    """How many channels there are in how many groups, and how many heads of how many attentions."""
    parts = []
    for of, name, within in ((False, "channels", "groups"), (True, "heads", "attentions")):
        sizes = [group.size for group in groups if (group.head_width is not None) is of]
        parts += [f"{sum(sizes):,} {name} in {len(sizes):,} {within if len(sizes) > 1 else within[:-1]}"] * bool(sizes)
    return " and ".join(parts)


def _require_limit(config: PruneConfig, channels: Channels) -> None:
    lowest = channels.cost([torch.arange(group.size) < 1 for group in channels.groups])
    if lowest <= config.density:
        return
    if config.target_flops is not None:
        least = math.ceil(lowest * 1e4) / 1e4
        what = f"is too low for this model: {lowest:.2%} of the operations are left with the fewest channels"
        raise UsageError(f"--target-flops {config.target_flops}", what, hint=f"use at least {least:g}")
    most = math.floor((1 - lowest) * 1e4) / 1e4
    what = f"is too high for this model: {lowest:.2%} of the weights are left with the fewest channels"
    raise UsageError(f"--sparsity {config.sparsity}", what, hint=f"use at most {most:g}")


def without_channels(channels: Channels, pruned: Pruned) -> Pruned:
    """The student with masks of the vectors that belong to its channels, too: of dead channels they are zero."""
    masks = channels.masks(channels.kept(pruned.masks), pruned.params)
    return replace(pruned, params=apply_masks(pruned.params, masks), masks=masks)


def channel_records(channels: Channels, pruned: Pruned) -> dict[str, ChannelRecord]:
    """What a checkpoint records of each group: its first layer, and which of the layer's outputs are gone."""
    return {
        group.layer: ChannelRecord(
            outputs=group.outputs,
            removed=tuple(group.outputs_of(~stays)),
            heads=None
            if group.head_width is None
            else HeadsRecord(heads=group.size, kept=int(stays.sum()), width=group.head_width),
            slices=tuple(
                SliceRecord(tensor=part.name, axis=part.axis, removed=tuple(part.of(~stays).tolist()))
                for part in group.slices
                if part.name in pruned.masks  # frozen vectors stay as they are
            ),
        )
        for group, stays in zip(channels.groups, channels.kept(pruned.masks), strict=True)
    }


def summary_of(channels: Channels, pruned: Pruned) -> StructureSummary:
    """What the report says of the channels."""
    kept = channels.kept(pruned.masks)
    whole = [torch.ones_like(stays) for stays in kept]
    return StructureSummary(
        channels=[
            ChannelSummary(
                layer=group.layer, kept=int(stays.sum()), channels=group.size, are_heads=group.head_width is not None
            )
            for group, stays in zip(channels.groups, kept, strict=True)
        ],
        left_out=dict(channels.left_out),
        flops_dense=round(channels.flops_of(whole)),
        flops=round(channels.flops_of(kept)),
    )

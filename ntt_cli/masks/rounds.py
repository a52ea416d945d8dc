"""From scores to masks at a density, at once or in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ntt_cli.masks.allocation import Allocate, SlicesByName, allocate
from ntt_cli.masks.channels import Channels, keep_channels
from ntt_cli.masks.masks import choose_masks
from ntt_cli.tensors import Masks


def scheduled_layer_density(layer_density: Mapping[str, float], *, density: float, target: float) -> dict[str, float]:
    """The densities of single weights while the density of all weights falls from 1 to `target`, and is `density` now.

    They fall from 1 to `layer_density`, by the same fraction of the way as the density of all weights has fallen.
    """
    done = (1 - density) / (1 - target) if target < 1 else 1.0
    return {name: end * done + (1 - done) for name, end in layer_density.items()}


def prune_in_rounds(
    score: Callable[[Masks], Mapping[str, Tensor]],
    masks: Masks,
    *,
    rounds: int,
    allocation: str | Allocate,
    density: float,
    layer_density: Mapping[str, float],
    slices: SlicesByName | None = None,
) -> Masks:
    """Score and prune alternately, the density falling geometrically from 1: `d^(r / rounds)` after round `r`.

    Args:
        score: gives the scores under the masks so far; zero for a pruned entry, so that it does not return.
        masks: the masks to begin with.
        rounds: the number of rounds.
        allocation: as for `allocate`.
        density: `d`, reached exactly in the last round.
        layer_density: final densities of single weights.
        slices: as for `allocate`.
    """
    for r in range(1, rounds + 1):
        now = density ** (r / rounds)
        densities = scheduled_layer_density(layer_density, density=now, target=density)
        scores = score(masks)
        counts = allocate(allocation, scores, density=now, layer_density=densities, slices=slices)
        masks = choose_masks(scores, counts, slices=slices)
    return masks


def prune_channels_in_rounds(
    score: Callable[[Masks], Mapping[str, Tensor]],
    masks: Masks,
    channels: Channels,
    *,
    rounds: int,
    density: float,
    norms: bool,
) -> Masks:
    """As `prune_in_rounds`, of whole channels; `density` is the fraction of their cost.

    The score of a channel is the sum over all of its weights, or with `norms` as `channel_norms` says.
    """
    for r in range(1, rounds + 1):
        scores = score(masks)
        of_channels = channel_norms(channels, scores) if norms else [group.sums(scores) for group in channels.groups]
        kept = keep_channels(channels, of_channels, limit=density ** (r / rounds))
        masks = {name: mask & masks[name] for name, mask in channels.masks(kept, masks).items()}
    return masks


def channel_norms(channels: Channels, scores: Mapping[str, Tensor]) -> list[Tensor]:
    """By group, the sum of the squares of its channels' scores, over the mean of the group.

    So scores of different layers need not be comparable. For magnitudes it is the group norm of Torch-Pruning (Fang et
    al. 2023, arXiv 2301.12900), but for the scales of normalisations.
    """
    squares = {name: values.double().square() for name, values in scores.items()}
    totals = [group.sums(squares) for group in channels.groups]
    return [total / total.mean().clamp_min(torch.finfo(total.dtype).tiny) for total in totals]

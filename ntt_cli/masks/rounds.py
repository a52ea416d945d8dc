"""Masks at a density, at once or in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ntt_cli.masks.allocation import Allocate, Slices, allocate
from ntt_cli.masks.masks import choose_masks
from ntt_cli.tensors import Masks


def masks_at(
    scores: Mapping[str, Tensor],
    *,
    allocation: str | Allocate,
    density: float,
    layer_density: Mapping[str, float] | None = None,
    slices: Slices | None = None,
) -> Masks:
    """The masks of the highest scores at this density.

    Args:
        scores: by weight.
        allocation: `erk`, `layerwise` or `global`.
        density: over all weights.
        layer_density: densities of single weights, which the allocation leaves alone.
        slices: of which weights every slice keeps an entry.
    """
    counts = allocate(allocation, scores, density=density, layer_density=layer_density, slices=slices)
    return choose_masks(scores, counts, slices=slices)


def on_the_way(layer_density: Mapping[str, float], *, density: float, target: float) -> dict[str, float]:
    """Densities set by hand while the whole is at `density`, as far on their way from 1 as it is on its to `target`."""
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
    slices: Slices | None = None,
) -> Masks:
    """Score and prune alternately, the density falling geometrically from 1: `d^(r / rounds)` after round `r`.

    Args:
        score: of the masks so far; zero for a pruned entry, so that it does not return.
        masks: to begin with.
        rounds: how often.
        allocation: `erk`, `layerwise` or `global`.
        density: `d`, reached exactly in the last round.
        layer_density: final densities of single weights.
        slices: of which weights every slice keeps an entry.
    """
    for r in range(1, rounds + 1):
        now = density ** (r / rounds)
        densities = on_the_way(layer_density, density=now, target=density)
        masks = masks_at(score(masks), allocation=allocation, density=now, layer_density=densities, slices=slices)
    return masks

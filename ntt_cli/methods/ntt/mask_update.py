"""Which weights the student keeps, at each mask update: first how many in each layer, then which."""

from __future__ import annotations

from ntt_cli.masks.allocation import Counts, allocate, allocate_global_with_shares
from ntt_cli.masks.masks import choose_masks
from ntt_cli.masks.rounds import on_the_way
from ntt_cli.methods.ntt.score import SCORES, MaskUpdate, Scores
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks


def update_masks(student: Student, transfer: Transfer, density: float, micro_batching: MicroBatching) -> Masks:
    """The masks of the highest scores at this density.

    Args:
        student: as it is now.
        transfer: from whose teacher it started.
        density: over all weights.
        micro_batching: how many samples go through the network at once.
    """
    settings = transfer.settings
    score = SCORES[settings.score] if isinstance(settings.score, str) else settings.score
    scored = score(MaskUpdate(student, transfer, density, micro_batching))
    counts = _allocate(scored.across_layers(), transfer, density, least_share=score.least_share)
    return choose_masks(scored.within_layers(counts), counts, slices=settings.slices)


def _allocate(scores: Scores, transfer: Transfer, density: float, *, least_share: float) -> Counts:
    settings = transfer.settings
    layer_density = on_the_way(settings.layer_density, density=density, target=settings.density)
    if settings.allocation == "global" and least_share:
        return allocate_global_with_shares(
            scores, density=density, layer_density=layer_density, share=least_share, slices=settings.slices
        )
    return allocate(settings.allocation, scores, density=density, layer_density=layer_density, slices=settings.slices)

"""Which weights the student keeps, at each mask update.

The paper keeps the largest magnitudes of each layer. Here the choice has three parts, each of which can be exchanged:
the score says how much each weight is worth, the allocation how many weights each layer keeps, and the layer then keeps
its highest scores.
"""

from __future__ import annotations

from ntt_cli.masks.allocation import Counts, allocate, allocate_global_with_shares
from ntt_cli.masks.masks import choose_masks
from ntt_cli.masks.rounds import scheduled_layer_density
from ntt_cli.methods.ntt.score import SCORES, ScoreContext, Scores
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks


def update_masks(student: Student, transfer: Transfer, density: float, micro_batching: MicroBatching) -> Masks:
    """The masks of the highest scores at this density over all prunable weights."""
    settings = transfer.settings
    score = SCORES[settings.score] if isinstance(settings.score, str) else settings.score
    scores = score(ScoreContext(student, transfer, density, micro_batching))
    counts = _allocate(scores.across_layers(), transfer, density, least_share=score.least_share)
    return choose_masks(scores.within_layers(counts), counts, slices=settings.slices)


def _allocate(scores: Scores, transfer: Transfer, density: float, *, least_share: float) -> Counts:
    """How many weights each layer keeps at this density, which is above the final one while the schedule falls."""
    settings = transfer.settings
    layer_density = scheduled_layer_density(settings.layer_density, density=density, target=settings.density)
    if settings.allocation == "global" and least_share:
        return allocate_global_with_shares(
            scores, density=density, layer_density=layer_density, share=least_share, slices=settings.slices
        )
    return allocate(settings.allocation, scores, density=density, layer_density=layer_density, slices=settings.slices)

"""Which weights the student keeps, at each mask update."""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_cli.core.allocation import allocate
from ntt_cli.core.functional import FunctionalModel, Masks
from ntt_cli.core.masks import choose_masks
from ntt_cli.core.rounds import masks_at, on_the_way
from ntt_cli.core.scores.affinity import affinity, input_correlations
from ntt_cli.core.scores.saliency import ACROSS_LAYERS, logit_sensitivities, saliency_scores, within_layers
from ntt_cli.core.scores.weights_alone import magnitude_scores
from ntt_cli.core.transfer import Student
from ntt_cli.workflows.prepare import Inputs
from ntt_cli.workflows.runs.room import Room
from ntt_cli.workflows.transfer.settings import TransferSettings

SALIENCY_BATCHES = 10
AFFINITY_SAMPLES, AFFINITY_BATCH = 1000, 100


def choose(
    student: Student,
    teacher: FunctionalModel,
    inputs: Inputs,
    outputs: int,
    settings: TransferSettings,
    density: float,
    room: Room,
) -> Masks:
    """First how many weights each layer keeps, then which.

    Args:
        student: as it is now.
        teacher: from whose weights it started.
        inputs: unlabelled.
        outputs: number of logits.
        settings: how.
        density: over all weights.
        room: how many samples go through the network at once.
    """
    by_hand = on_the_way(settings.by_hand, density=density, target=settings.density)
    names = list(student.mask_bits)
    if settings.score == "magnitude":
        scores = magnitude_scores(student.params, names)
        return masks_at(scores, allocation=settings.allocation, density=density, by_hand=by_hand)
    sensitivities = room.run(lambda chunk: _sensitivities(student, inputs, outputs, settings, chunk))
    across = saliency_scores(student.params, sensitivities, names, exponent=ACROSS_LAYERS)
    counts = allocate(settings.allocation, across, density=density, by_hand=by_hand)
    del across  # before there are the others
    within = saliency_scores(student.params, sensitivities, names, exponent=within_layers(len(names)))
    del sensitivities
    if settings.affinity:
        samples = inputs.some(AFFINITY_SAMPLES).in_order(AFFINITY_BATCH)
        for name, correlations in input_correlations(teacher.bind(), teacher.params, names, samples):
            kept_in_the_end = counts[name] * settings.density / density
            within[name] *= affinity(correlations, kept_per_unit=kept_in_the_end / len(correlations))
    return choose_masks(within, counts)


def _sensitivities(
    student: Student, inputs: Inputs, outputs: int, settings: TransferSettings, chunk: int | None
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches at each update
    batches = (
        inputs.batch(torch.randint(len(inputs), (settings.batch_size,), generator=generator))
        for _ in range(SALIENCY_BATCHES)
    )
    return logit_sensitivities(
        student.apply, student.masked_params, batches, outputs=outputs, generator=generator, chunk=chunk
    )

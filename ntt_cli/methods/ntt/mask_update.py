"""Which weights the student keeps, at each mask update."""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_cli.data.inputs import Inputs
from ntt_cli.masks.allocation import allocate, allocate_global_with_shares
from ntt_cli.masks.masks import choose_masks
from ntt_cli.masks.rounds import masks_at, on_the_way
from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.affinity import affinity, affinity_exponent, input_correlations
from ntt_cli.methods.ntt.saliency import ACROSS_LAYERS, logit_sensitivities, saliency_scores, within_layers
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks

LEAST_SHARE = 0.1
"""Of what ERK would keep, for each of the layers that compete: the last of ResNet-50's were left with one weight."""

SALIENCY_BATCHES = 10
AFFINITY_SAMPLES = 1000


def choose(
    student: Student,
    teacher: FunctionalModel,
    inputs: Inputs,
    outputs: int,
    settings: TransferSettings,
    density: float,
    micro_batching: MicroBatching,
) -> Masks:
    """First how many weights each layer keeps, then which.

    Args:
        student: as it is now.
        teacher: from whose weights it started.
        inputs: unlabelled.
        outputs: number of logits.
        settings: how.
        density: over all weights.
        micro_batching: how many samples go through the network at once.
    """
    layer_density = on_the_way(settings.layer_density, density=density, target=settings.density)
    names, slices = list(student.mask_bits), settings.slices
    if settings.score == "magnitude":
        scores = magnitude_scores(student.params, names)
        return masks_at(
            scores, allocation=settings.allocation, density=density, layer_density=layer_density, slices=slices
        )
    sensitivities = micro_batching.run(lambda chunk: _sensitivities(student, inputs, outputs, settings, chunk))
    across = saliency_scores(student.params, sensitivities, names, exponent=ACROSS_LAYERS)
    if settings.allocation == "global":
        counts = allocate_global_with_shares(
            across, density=density, layer_density=layer_density, share=LEAST_SHARE, slices=slices
        )
    else:
        counts = allocate(settings.allocation, across, density=density, layer_density=layer_density, slices=slices)
    del across  # before there are the others
    within = saliency_scores(student.params, sensitivities, names, exponent=within_layers(len(names)))
    del sensitivities
    if settings.affinity:
        kept = {name: counts[name] * settings.density / density for name in names}  # in the end
        exponents = {name: affinity_exponent(kept[name] / len(within[name]), layers=len(names)) for name in names}
        asked = [name for name in names if exponents[name]]
        correlations = micro_batching.run(
            lambda chunk: _correlations(teacher, asked, inputs, chunk or micro_batching.batch_size // 2)
        )
        for name in list(correlations):
            within[name] *= affinity(correlations.pop(name), exponent=exponents[name])
    return choose_masks(within, counts, slices=slices)


def _correlations(teacher: FunctionalModel, names: list[str], inputs: Inputs, at_once: int) -> dict[str, Tensor]:
    """Of the teacher: what the student's units have in common is what earlier masks left them."""
    batches = inputs.some(AFFINITY_SAMPLES).in_order(at_once) if names else []
    return input_correlations(teacher.bind(), teacher.params, names, batches)


def _sensitivities(
    student: Student, inputs: Inputs, outputs: int, settings: TransferSettings, chunk: int | None
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches at each update
    batches = (
        inputs.batch(torch.randint(len(inputs), (settings.batch_size,), generator=generator), (settings.seed, number))
        for number in range(SALIENCY_BATCHES)
    )
    return logit_sensitivities(
        student.apply, student.masked_params, batches, outputs=outputs, generator=generator, chunk=chunk
    )

"""Which weights the student keeps, at each mask update."""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_cli.masks.allocation import allocate, allocate_global_with_shares
from ntt_cli.masks.masks import choose_masks
from ntt_cli.masks.rounds import masks_at, on_the_way
from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.affinity import affinity, affinity_exponent, input_correlations
from ntt_cli.methods.ntt.saliency import ACROSS_LAYERS, logit_sensitivities, saliency_scores, within_layers
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Masks

LEAST_SHARE = 0.1
"""Of what ERK would keep, the least that each of the competing layers keeps. Without it the last layers of ResNet-50
kept one weight each."""

SALIENCY_BATCHES = 10
AFFINITY_SAMPLES = 1000


def update_masks(student: Student, transfer: Transfer, density: float, micro_batching: MicroBatching) -> Masks:
    """The weights that the student keeps: first how many in each layer, then which.

    Args:
        student: as it is now.
        transfer: from whose teacher it started.
        density: over all weights.
        micro_batching: how many samples go through the network at once.
    """
    settings = transfer.settings
    layer_density = on_the_way(settings.layer_density, density=density, target=settings.density)
    names, slices = list(student.mask_bits), settings.slices
    if settings.score == "magnitude":
        scores = magnitude_scores(student.params, names)
        return masks_at(
            scores, allocation=settings.allocation, density=density, layer_density=layer_density, slices=slices
        )
    sensitivities = micro_batching.run(lambda execution: _sensitivities(student, transfer, execution))
    across = saliency_scores(student.params, sensitivities, names, exponent=ACROSS_LAYERS)
    if settings.allocation == "global":
        counts = allocate_global_with_shares(
            across, density=density, layer_density=layer_density, share=LEAST_SHARE, slices=slices
        )
    else:
        counts = allocate(settings.allocation, across, density=density, layer_density=layer_density, slices=slices)
    del across  # before the other scores are computed
    within = saliency_scores(student.params, sensitivities, names, exponent=within_layers(len(names)))
    del sensitivities
    if settings.affinity:
        kept = {name: counts[name] * settings.density / density for name in names}  # in the end
        exponents = {name: affinity_exponent(kept[name] / len(within[name]), layers=len(names)) for name in names}
        asked = [name for name in names if exponents[name]]
        correlations = micro_batching.run(lambda execution: _correlations(transfer, asked, execution))
        for name in list(correlations):
            within[name] *= affinity(correlations.pop(name), exponent=exponents[name])
    return choose_masks(within, counts, slices=slices)


def _correlations(transfer: Transfer, names: list[str], execution: Execution) -> dict[str, Tensor]:
    """Of the teacher: what the student's units have in common is what earlier masks left them."""
    at_once = execution.micro_batch or transfer.settings.batch_size // 2
    batches = transfer.inputs.some(AFFINITY_SAMPLES).in_order(at_once) if names else []
    return input_correlations(transfer.teacher.bind(), transfer.teacher.params, names, batches)


def _sensitivities(student: Student, transfer: Transfer, execution: Execution) -> dict[str, Tensor]:
    inputs, settings = transfer.inputs, transfer.settings
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches at each update
    batches = (
        inputs.batch(torch.randint(len(inputs), (settings.batch_size,), generator=generator), (settings.seed, number))
        for number in range(SALIENCY_BATCHES)
    )
    return logit_sensitivities(
        student.apply,
        student.masked_params,
        batches,
        outputs=transfer.outputs,
        generator=generator,
        execution=execution,
    )

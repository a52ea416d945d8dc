"""How far a student is from its teacher on samples that the transfer does not learn from."""

from __future__ import annotations

from dataclasses import replace

import torch

from ntt_cli.kernels.product import compute_outputs
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.objective import transfer_loss, weight_penalty
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.execution import Execution

SAMPLES = 512
SHARE = 0.1
"""At most so many samples are held out, and at most this share of all; but at least two."""

BATCHES = 8
"""The number of batches that a validation distance is averaged over."""


def validation_distance(student: Student, held_out: Batches, execution: Execution = Execution()) -> float:
    """`λ_K · D_K + D_f` at the student's masked weights, the mean over the batches.

    Batches and probes are the same each time, so that distances can be compared.
    """
    objective = replace(held_out.transfer.settings.objective, weight_penalty=0.0)
    params, active = student.masked_params, student.mask_bits if objective.active else None
    penalty = weight_penalty(params, student.mask_bits, student.density)
    losses, teacher = [], held_out.transfer.teacher
    for number in range(BATCHES):
        batch = held_out.at(number, execution)
        halves = batch.x1, batch.x2, batch.probe
        outputs = compute_outputs(student.apply, params, *halves, active=active, execution=execution)
        with torch.no_grad():
            losses.append(
                transfer_loss(objective.on(teacher, batch.x1, batch.x2), outputs, batch.teacher, penalty).total
            )
    return float(torch.stack(losses).mean())


def hold_out(transfer: Transfer) -> tuple[Transfer, Batches]:
    """The transfer on most of its samples, and batches of the others; each has at least two."""
    inputs, settings = transfer.inputs, transfer.settings
    if inputs.samples.successive:
        divided = inputs.samples.held_out(max(2, min(2 * BATCHES, int(SHARE * len(inputs)))))
        held_out, training = (replace(transfer, inputs=replace(inputs, samples=part)) for part in divided)
        return training, Batches(replace(held_out, settings=replace(settings, batches=BATCHES)))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(settings.seed))
    parts = order.tensor_split([max(2, min(SAMPLES, int(SHARE * len(inputs))))])
    held_out, training = (
        replace(transfer, inputs=replace(inputs, samples=inputs.samples.subset(part))) for part in parts
    )
    return training, Batches(replace(held_out, settings=replace(settings, batches=BATCHES)))

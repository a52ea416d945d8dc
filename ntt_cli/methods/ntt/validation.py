"""How far a student is from its teacher on samples that the transfer does not learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ntt_cli.kernels.product import compute_outputs
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.objective import transfer_loss
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.execution import Execution

SAMPLES = 512
SHARE = 0.1
"""How many of the samples are held out, at most."""

BATCHES = 8


@dataclass(frozen=True)
class Validation:
    """The same few batches and probes each time, so that distances can be compared.

    Attributes:
        batches: of samples held out; the teacher's outputs for each are computed once.
    """

    batches: Batches

    def distance(self, student: Student, execution: Execution = Execution()) -> float:
        """`λ_K · D_K + D_f` at the student's masked weights, the mean over the batches."""
        params, settings = student.masked_params, self.batches.transfer.settings
        objective = replace(settings.objective, weight_penalty=0.0)
        active = student.mask_bits if settings.active else None
        losses = []
        for number in range(BATCHES):
            batch = self.batches.at(number, execution)
            own = compute_outputs(
                student.apply, params, batch.x1, batch.x2, batch.probe, active=active, execution=execution
            )
            with torch.no_grad():
                loss = transfer_loss(
                    objective, own, batch.teacher, params=params, prunable=student.mask_bits, density=student.density
                )
            losses.append(loss.total)
        return float(torch.stack(losses).mean())


def held_out(transfer: Transfer) -> tuple[Transfer, Validation]:
    """The transfer without some of its samples, and a validation on these; both have two samples at least."""
    inputs, settings = transfer.inputs, transfer.settings
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(settings.seed))
    first, rest = order.tensor_split([max(2, min(SAMPLES, int(SHARE * len(inputs))))])
    others, training = (
        replace(transfer, inputs=replace(inputs, samples=inputs.samples.subset(part))) for part in (first, rest)
    )
    return training, Validation(Batches(replace(others, settings=replace(settings, batches=BATCHES))))

"""How far a student is from its teacher on samples that the transfer does not learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ntt_cli.data.inputs import Inputs
from ntt_cli.kernels.product import answers
from ntt_cli.methods.ntt.batches import Batches
from ntt_cli.methods.ntt.objective import transfer_loss
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student
from ntt_cli.networks.functional import FunctionalModel

SAMPLES = 512
SHARE = 0.1
"""Of the samples, at most, that are held out."""

BATCHES = 8


@dataclass(frozen=True)
class Validation:
    """The same few batches and probes each time, so that distances can be compared.

    Attributes:
        batches: of samples held out; the teacher is asked about each once.
    """

    batches: Batches

    def distance(self, student: Student, *, chunk: int | None) -> float:
        """`λ_K · D_K + D_f` at the student's masked weights, the mean over the batches."""
        params, settings = student.masked_params, self.batches.settings
        objective = replace(settings.objective, weight_penalty=0.0)
        active = student.mask_bits if settings.active else None
        losses = []
        for number in range(BATCHES):
            batch = self.batches.at(number, chunk=chunk)
            own = answers(student.apply, params, batch.x1, batch.x2, batch.probe, active=active, chunk=chunk)
            with torch.no_grad():
                loss = transfer_loss(
                    objective, own, batch.teacher, params=params, prunable=student.mask_bits, density=student.density
                )
            losses.append(loss.total)
        return float(torch.stack(losses).mean())


def held_out(
    inputs: Inputs, teacher: FunctionalModel, *, outputs: int, settings: TransferSettings
) -> tuple[Inputs, Validation]:
    """The samples to learn from, and a validation on the others, at least two."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(settings.seed))
    first, rest = order.tensor_split([max(2, min(SAMPLES, int(SHARE * len(inputs))))])
    others, training = (replace(inputs, samples=inputs.samples.subset(part)) for part in (first, rest))
    return training, Validation(Batches(teacher, others, outputs, replace(settings, batches=BATCHES)))

"""The batches of a transfer: which samples, which probe, and the teacher's outputs for them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size, split
from ntt_cli.kernels.product import Outputs, compute_outputs, draw_probe
from ntt_cli.methods.ntt.compiled import CompiledOutputs
from ntt_cli.methods.ntt.step import StepBatch
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.functional import outputs_in
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.seeding import seeded

REMEMBERED_BYTES = 2**28
"""The most memory for the teacher's outputs that are kept for samples or batches that return."""


@dataclass
class Batches:
    """The batches that a transfer learns from. A batch depends on the seed and its number alone.

    A batch's number is its step, or with `settings.batches = B` the step modulo `B`: then the first `B` batches return.

    The teacher never changes, so its outputs are computed once where they are needed again. Without a kernel term,
    these are its outputs for each sample. With one, they depend on the probe, too, so they can be kept only for batches
    that return. Random inputs, such as augmented ones, are drawn anew for each batch; a batch that returns has the
    same.
    """

    transfer: Transfer
    _outputs: dict[int, Outputs] = field(default_factory=dict)
    _logits: Tensor | None = None
    _remembered: int = 0
    _compiled: CompiledOutputs | None = field(init=False)

    def __post_init__(self) -> None:
        self._compiled = CompiledOutputs(self.transfer.teacher) if self.transfer.settings.compiled else None

    def at(self, step: int, execution: Execution = Execution()) -> StepBatch:
        """This process's share of the batch of a step."""
        settings, inputs, group = self.transfer.settings, self.transfer.inputs, execution.group
        number = step if settings.batches is None else step % settings.batches
        generator = seeded(settings.seed, number)
        first, second = inputs.draw(number, settings.batch_size, generator).chunk(2)
        shares = [group.share(half) for half in (first, second)]
        teacher = self.transfer.teacher
        drawn = inputs.batch(torch.cat(shares), (settings.seed, number))
        drawn = teacher.sized(drawn)
        x1, x2 = split(drawn, [len(half) for half in shares])
        if not settings.objective.kernel_weight:
            return StepBatch(x1, x2, None, self._logits_of(torch.cat(shares), x1, x2, execution))
        width = outputs_in(drawn, self.transfer.outputs)
        probe = group.share(draw_probe((len(second), width), like=self._like, generator=generator))
        outputs = self._outputs.get(number)
        if outputs is None:
            if self._compiled and execution.is_whole:
                outputs = self._compiled(teacher.bind(), teacher.params, x1, x2, probe)
            else:
                outputs = compute_outputs(teacher.bind(), teacher.params, x1, x2, probe, execution=execution)
            self._remember(number, outputs)
        return StepBatch(x1, x2, probe, outputs)

    @property
    def _like(self) -> Tensor:
        return next(iter(self.transfer.teacher.params.values()))

    def _remember(self, number: int, new: Outputs) -> None:
        """Keep the outputs for a batch, if the batch returns and there is room."""
        size = sum(getattr(new, part.name).nbytes for part in fields(new))
        returns = self.transfer.settings.batches is not None and self.transfer.inputs.samples.changes != "always"
        if returns and self._remembered + size <= REMEMBERED_BYTES:
            self._outputs[number] = new
            self._remembered += size

    def _logits_of(self, indices: Tensor, x1: Batch, x2: Batch, execution: Execution) -> Outputs:
        """The teacher's outputs without a kernel product, from those for all samples, or computed for this batch.

        Outputs for all samples do not pay if the transfer draws fewer samples than there are.
        """
        teacher, inputs, settings = self.transfer.teacher, self.transfer.inputs, self.transfer.settings
        drawn = settings.steps * settings.batch_size
        size = len(inputs) * self.transfer.outputs * self._like.element_size()
        bundled = inputs.samples.bundled
        if drawn < len(inputs) or size > REMEMBERED_BYTES or inputs.samples.changes != "never" or bundled:
            return compute_outputs(teacher.bind(), teacher.params, x1, x2, None, execution=execution)
        if self._logits is None:
            apply = teacher.bind()
            batches = inputs.in_order(execution.micro_batch or settings.batch_size)
            with torch.no_grad():
                self._logits = torch.cat([apply(teacher.params, x) for x in batches])
        logits1, logits2 = self._logits[indices.to(self._logits.device)].split([batch_size(x1), batch_size(x2)])
        return Outputs(logits1=logits1, logits2=logits2)

"""The batches of a transfer: which samples, which probe, and what the teacher says of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial

import torch
from torch import Tensor

from ntt_cli.data.inputs import Inputs
from ntt_cli.kernels.product import Answers, answers, draw_probe
from ntt_cli.methods.ntt.compiled import CompiledAnswers
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.runtime.generators import seeded
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup

REMEMBERED_BYTES = 2**28
"""Of the teacher's answers, how much is kept for the next time that their batch is drawn."""


@dataclass(frozen=True)
class Batch:
    """One step's.

    Attributes:
        x1: first half, `[n, ...]`.
        x2: second half, `[m, ...]`.
        probe: Gaussian, `[m, c]`; `None` where logits alone are matched.
        teacher: the teacher's answers.
    """

    x1: Tensor
    x2: Tensor
    probe: Tensor | None
    teacher: Answers


@dataclass
class Batches:
    """What a transfer is shown. A batch depends on the seed and its number alone, not on those before it.

    The teacher never changes, so that what it says of samples that return is asked once: with logits alone that is all
    of them, and with kernels it is that of whole batches with their probes, where `settings.batches` recur. Inputs that
    are random are others in each batch, and the same where it recurs.

    Attributes:
        teacher: calibrated.
        inputs: unlabelled.
        outputs: number of logits.
        settings: of the transfer.
        group: the processes that share each batch; this one's share is what `at` gives.
    """

    teacher: FunctionalModel
    inputs: Inputs
    outputs: int
    settings: TransferSettings
    group: ProcessGroup = SINGLE
    _answers: dict[int, Answers] = field(default_factory=dict)
    _logits: Tensor | None = None
    _remembered: int = 0
    _compiled: CompiledAnswers | None = field(init=False)

    def __post_init__(self) -> None:
        self._compiled = CompiledAnswers(self.teacher) if self.settings.compiled else None

    def at(self, step: int, *, chunk: int | None) -> Batch:
        """The batch of a step; `chunk` samples at most go through the teacher at once."""
        settings = self.settings
        number = step if settings.batches is None else step % settings.batches
        generator = seeded(settings.seed, number)
        indices = torch.randint(len(self.inputs), (settings.batch_size,), generator=generator)
        first, second = indices.chunk(2)
        mine = [self.group.share(half) for half in (first, second)]
        x1, x2 = self.inputs.batch(torch.cat(mine), (settings.seed, number)).split([len(half) for half in mine])
        if not settings.objective.kernel_weight:
            return Batch(x1, x2, None, self._logits_of(torch.cat(mine), x1, x2, chunk))
        whole = draw_probe((len(second), self.outputs), like=self._like, generator=generator)
        probe = self.group.share(whole)
        known = self._answers.get(number)
        if known is None:
            of_parts = partial(answers, chunk=chunk, total=self.group.total)
            ask = self._compiled if self._compiled and chunk is None and self.group.size == 1 else of_parts
            known = ask(self.teacher.bind(), self.teacher.params, x1, x2, probe)
            self._remember(number, known)
        return Batch(x1, x2, probe, known)

    @property
    def _like(self) -> Tensor:
        return next(iter(self.teacher.params.values()))

    def _remember(self, number: int, new: Answers) -> None:
        size = sum(getattr(new, part.name).nbytes for part in fields(new))
        again = self.settings.batches is not None and self.inputs.samples.changes != "always"
        if again and self._remembered + size <= REMEMBERED_BYTES:
            self._answers[number] = new
            self._remembered += size

    def _logits_of(self, indices: Tensor, x1: Tensor, x2: Tensor, chunk: int | None) -> Answers:
        drawn = self.settings.steps * self.settings.batch_size
        size = len(self.inputs) * self.outputs * self._like.element_size()
        if drawn < len(self.inputs) or size > REMEMBERED_BYTES or self.inputs.samples.changes != "never":
            return answers(self.teacher.bind(), self.teacher.params, x1, x2, None, chunk=chunk)
        if self._logits is None:
            apply = self.teacher.bind()
            batches = self.inputs.in_order(chunk or self.settings.batch_size)
            with torch.no_grad():
                self._logits = torch.cat([apply(self.teacher.params, x) for x in batches])
        logits1, logits2 = self._logits[indices.to(self._logits.device)].split([len(x1), len(x2)])
        return Answers(logits1=logits1, logits2=logits2)

"""NTT's score as an exchangeable part: how much each weight is worth at a mask update.

A score answers twice: across layers, to say how many weights each layer keeps, and within a layer, to say which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.affinity import affinity, affinity_exponent, input_correlations, strongest
from ntt_cli.methods.ntt.saliency import ACROSS_LAYERS, logit_sensitivities, saliency_scores, within_layers
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.micro_batching import MicroBatching

LEAST_SHARE = 0.1
"""Of what ERK would keep, the least that each of the competing layers keeps. Without it the last layers of ResNet-50
kept one weight each."""

SALIENCY_BATCHES = 10
AFFINITY_SAMPLES = 1000

Scores = dict[str, Tensor]
"""By weight, in its shape; higher scores are kept."""


@dataclass(frozen=True)
class MaskUpdate:
    """What a score may look at.

    Attributes:
        student: as it is now; pruned entries have the values that they would return with.
        transfer: its teacher, inputs and settings.
        density: that the masks are to have, over all weights.
        micro_batching: `run(work)` calls `work(execution)`, again with smaller micro-batches if memory runs out.
    """

    student: Student
    transfer: Transfer
    density: float
    micro_batching: MicroBatching

    @property
    def names(self) -> list[str]:
        """The prunable weights."""
        return list(self.student.mask_bits)


class ScoredUpdate(Protocol):
    """The scores of one mask update."""

    def across_layers(self) -> Scores:
        """Scores to compare between layers; asked for first."""

    def within_layers(self, counts: Mapping[str, int]) -> Scores:
        """Scores to compare within each layer, which keeps so many; asked for last."""


class Score(Protocol):
    """How weights are scored.

    Attributes:
        least_share: where layers compete, each keeps at least this share of what ERK would give it; 0: one weight.
    """

    @property
    def least_share(self) -> float: ...

    def __call__(self, update: MaskUpdate) -> ScoredUpdate:
        """Look at the student, and be ready to score."""


@dataclass(frozen=True)
class MagnitudeScore:
    """`|w|`, the paper's score."""

    least_share: float = 0.0

    def __call__(self, update: MaskUpdate) -> ScoredUpdate:
        """The same scores in both roles."""
        return _SameScores(magnitude_scores(update.student.params, update.names))


@dataclass(frozen=True)
class _SameScores:
    scores: Scores

    def across_layers(self) -> Scores:
        return self.scores

    def within_layers(self, counts: Mapping[str, int]) -> Scores:
        return self.scores


@dataclass(frozen=True)
class Saliency:
    """`|w| · sensitivity^exponent`, within layers times the affinity of a unit's inputs. See `saliency`, `affinity`.

    Attributes:
        across: the exponent across layers.
        within: the exponent within layers; `None`: by the number of layers, as `within_layers` says.
        most_affinity: the largest exponent of the affinity; `None`: by the number of layers, as `strongest` says.
        least_share: as of every score.
    """

    across: float = ACROSS_LAYERS
    within: float | None = None
    most_affinity: float | None = None
    least_share: float = LEAST_SHARE

    def __call__(self, update: MaskUpdate) -> ScoredUpdate:
        """Take the sensitivities of the outputs."""
        return _SalientUpdate(self, update, update.micro_batching.run(lambda e: _sensitivities(update, e)))


@dataclass
class _SalientUpdate:
    score: Saliency
    update: MaskUpdate
    sensitivities: Scores

    def across_layers(self) -> Scores:
        params, names = self.update.student.params, self.update.names
        return saliency_scores(params, self.sensitivities, names, exponent=self.score.across)

    def within_layers(self, counts: Mapping[str, int]) -> Scores:
        params, names, settings = self.update.student.params, self.update.names, self.update.transfer.settings
        exponent = within_layers(len(names)) if self.score.within is None else self.score.within
        scores = saliency_scores(params, self.sensitivities, names, exponent=exponent)
        self.sensitivities = {}  # before the correlations are computed
        if not settings.affinity:
            return scores
        most = strongest(len(names)) if self.score.most_affinity is None else self.score.most_affinity
        kept = {name: counts[name] * settings.density / self.update.density for name in names}  # in the end
        exponents = {name: affinity_exponent(kept[name] / len(scores[name]), most=most) for name in names}
        asked = [name for name in names if exponents[name]]
        correlations = self.update.micro_batching.run(lambda e: _correlations(self.update.transfer, asked, e))
        for name in list(correlations):
            scores[name] *= affinity(correlations.pop(name), exponent=exponents[name])
        return scores


SCORES: dict[str, Score] = {"saliency": Saliency(), "magnitude": MagnitudeScore()}
"""By the names that `--method ntt:score=NAME` takes."""


def _correlations(transfer: Transfer, names: list[str], execution: Execution) -> Scores:
    """Of the teacher: what the student's units have in common is what earlier masks left them."""
    at_once = execution.micro_batch or transfer.settings.batch_size // 2
    batches = transfer.inputs.some(AFFINITY_SAMPLES).in_order(at_once) if names else []
    return input_correlations(transfer.teacher.bind(), transfer.teacher.params, names, batches)


def _sensitivities(update: MaskUpdate, execution: Execution) -> Scores:
    inputs, settings = update.transfer.inputs, update.transfer.settings
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches at each update
    batches = (
        inputs.batch(torch.randint(len(inputs), (settings.batch_size,), generator=generator), (settings.seed, number))
        for number in range(SALIENCY_BATCHES)
    )
    return logit_sensitivities(
        update.student.apply,
        update.student.masked_params,
        batches,
        outputs=update.transfer.outputs,
        generator=generator,
        execution=execution,
    )

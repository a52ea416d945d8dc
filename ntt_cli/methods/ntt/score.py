"""Which weights the student keeps, at each mask update.

The paper keeps the largest magnitudes of each layer. Here the choice has three parts, each of which can be exchanged:
the score says how much each weight is worth, the allocation how many weights each layer keeps, and the layer then keeps
its highest scores.

There are two kinds of scores. Scores across layers say how many weights each layer keeps, if the allocation is
`global`. Scores within layers say which weights a layer keeps. For magnitudes, the paper's score, the two are the same.
For ours they differ: `|w| · sensitivity^exponent` has another exponent in each, and within layers an affinity as a
factor. `score(context)` makes the scores of one mask update, and `update_masks` asks these for both, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.masks.allocation import Counts, allocate, allocate_global_with_shares
from ntt_cli.masks.channels import Channels, keep_channels
from ntt_cli.masks.masks import choose_masks
from ntt_cli.masks.rounds import channel_norms, scheduled_layer_density
from ntt_cli.masks.schedule import mask_update_steps
from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.affinity import affinity, affinity_exponent, input_correlations, largest_affinity_exponent
from ntt_cli.methods.ntt.channel_score import Probes, channel_saliencies
from ntt_cli.methods.ntt.saliency import ACROSS_LAYERS, exponent_within_layers, logit_sensitivities, saliency_scores
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.ntt.step import Student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.functional import with_equal_heads
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.tensors import Apply, Masks

LEAST_SHARE = 0.1
"""With the allocation `global`, each layer keeps at least this share of what ERK would give it. Without it the last
layers of ResNet-50 kept one weight each (docs/notebook/20-inputs-alike.md)."""

SALIENCY_BATCHES = 10
"""Batches, with one probe each, that sensitivities are averaged over, at most."""

STEPS_A_BATCH = 10
"""One batch for so many steps between two mask updates, but at least two: scores then take a tenth of the time
(docs/notebook/27-batch-statistics.md)."""

AFFINITY_SAMPLES = 1000
"""Samples that correlations are computed from, at most."""

Scores = dict[str, Tensor]
"""The scores of each weight by its name, in its shape; the highest are kept."""


@dataclass(frozen=True)
class ScoreContext:
    """What a score may look at.

    Attributes:
        student: as it is now; pruned entries have the values that they would return with.
        transfer: its teacher, inputs and settings.
        density: of the masks to be chosen, over all prunable weights.
        micro_batching: `run(work)` calls `work(execution)`, again with smaller micro-batches if memory runs out.
    """

    student: Student
    transfer: Transfer
    density: float
    micro_batching: MicroBatching

    @property
    def names(self) -> list[str]:
        return list(self.student.mask_bits)


@dataclass(frozen=True)
class MaskScores:
    """The scores of one mask update.

    Attributes:
        across_layers: gives scores to compare weights of different layers by. Called first.
        within_layers: gives scores to compare weights of the same layer by, for the count of each. Called last.
    """

    across_layers: Callable[[], Scores]
    within_layers: Callable[[Mapping[str, int]], Scores]


class Score(Protocol):
    """How weights are scored.

    Attributes:
        least_share: with the allocation `global`, each layer keeps at least this share of what ERK would give it. With
            0 it keeps at least one weight.
    """

    @property
    def least_share(self) -> float: ...

    def __call__(self, context: ScoreContext) -> MaskScores:
        """The scores of one mask update."""


@dataclass(frozen=True)
class MagnitudeScore:
    """`|w|`, the paper's score."""

    least_share: float = 0.0

    def __call__(self, context: ScoreContext) -> MaskScores:
        scores = magnitude_scores(context.student.params, context.names)
        return MaskScores(lambda: scores, lambda counts: scores)


@dataclass(frozen=True)
class Saliency:
    """`|w| · sensitivity^exponent`, within layers times the affinity. See `saliency.py` and `affinity.py`.

    Attributes:
        across: the exponent across layers.
        within: the exponent within layers; `None`: `exponent_within_layers` of the number of layers.
        most_affinity: the largest exponent of the affinity; `None`: `largest_affinity_exponent` of the number of
            layers.
        least_share: see `Score`.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> method = ntt.NTT(score=ntt.Saliency(within=0.25), steps=5)
        >>> ntt.prune(net, torch.randn(32, 4), sparsity=0.5, method=method).report.kept
        28
    """

    across: float = ACROSS_LAYERS
    within: float | None = None
    most_affinity: float | None = None
    least_share: float = LEAST_SHARE

    def __call__(self, context: ScoreContext) -> MaskScores:
        sensitivities = context.micro_batching.run(lambda execution: _sensitivities(context, execution))
        params, names = context.student.params, context.names
        return MaskScores(
            lambda: saliency_scores(params, sensitivities, names, exponent=self.across),
            lambda counts: self._within_layers(context, sensitivities, counts),
        )

    def _within_layers(self, context: ScoreContext, sensitivities: Scores, counts: Mapping[str, int]) -> Scores:
        names, settings = context.names, context.transfer.settings
        exponent = exponent_within_layers(len(names)) if self.within is None else self.within
        scores = saliency_scores(context.student.params, sensitivities, names, exponent=exponent)
        sensitivities.clear()  # frees their memory for the correlations
        if not settings.affinity:
            return scores
        most = largest_affinity_exponent(len(names)) if self.most_affinity is None else self.most_affinity
        exponents = {}
        for name in names:  # by how many inputs a unit keeps when the density has fallen to its final value
            kept_at_end = counts[name] * settings.density / context.density
            exponents[name] = affinity_exponent(kept_at_end / len(scores[name]), most=most)  # the first axis is units
        with_affinity = [name for name in names if exponents[name]]
        correlations = context.micro_batching.run(
            lambda execution: _correlations(context.transfer, with_affinity, execution)
        )
        for name in list(correlations):
            scores[name] *= affinity(correlations.pop(name), exponent=exponents[name])
        return scores


SCORES: dict[str, Score] = {"saliency": Saliency(), "magnitude": MagnitudeScore()}
"""By the names that `--method ntt:score=NAME` takes."""


def score_batches(settings: TransferSettings) -> int:
    """The number of batches that the sensitivities of a mask update are averaged over."""
    window = mask_update_steps(steps=settings.steps, every=settings.mask_update_every).step
    return min(SALIENCY_BATCHES, max(2, window // STEPS_A_BATCH))


def _correlations(transfer: Transfer, names: list[str], execution: Execution) -> Scores:
    """The correlations of inputs in the teacher: in the student they would depend on the masks before."""
    at_once = execution.micro_batch or transfer.settings.batch_size // 2
    batches = transfer.inputs.some(AFFINITY_SAMPLES).in_order(at_once) if names else []
    teacher = transfer.teacher.without_hidden_heads
    return input_correlations(teacher.bind(), teacher.params, names, batches)


def _sensitivities(context: ScoreContext, execution: Execution) -> Scores:
    """The sensitivities of the student's outputs, at its masked weights."""
    apply, batches, generator = _scored(context)
    params, heads = context.student.masked_params, context.transfer.teacher.without_hidden_heads.heads
    outputs = context.transfer.outputs if heads is None else sum(heads.sizes)
    return logit_sensitivities(apply, params, batches, outputs=outputs, generator=generator, execution=execution)


def _scored(context: ScoreContext) -> tuple[Apply, Iterator[Batch], torch.Generator]:
    """The student as a function, the batches that it is scored on, and what draws their probes."""
    inputs, settings = context.transfer.inputs, context.transfer.settings
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches at each update
    teacher = context.transfer.teacher.without_hidden_heads
    batches = (
        teacher.sized(
            inputs.batch(inputs.draw(number, settings.batch_size, generator), (settings.seed, number)),
        )
        for number in range(score_batches(settings))
    )
    some = torch.arange(min(len(inputs), settings.batch_size // 2))
    rows_of = lambda: teacher.bind()(teacher.params, inputs.batch(some))  # noqa: E731
    # By running statistics: those of a batch would divide a channel without kept weights by the square root of `eps`.
    student = replace(context.student.apply, model=teacher, batch_statistics=False)
    apply = with_equal_heads(student, teacher.heads, rows_of)
    return apply, batches, generator


def _channel_scores(context: ScoreContext, score: Score, channels: Channels) -> list[Tensor]:
    """By group, the scores of its channels: saliencies per cost, or norms of what another score says across layers.

    The limit is one of cost: of channels that move the outputs as much, the dearest should go first.
    """
    if not isinstance(score, Saliency):
        return channel_norms(channels, score(context).across_layers())
    params, outputs = context.student.masked_params, context.transfer.outputs

    def saliencies(execution: Execution) -> list[Tensor]:
        apply, batches, generator = _scored(context)
        probes = Probes(outputs, generator, execution)
        return channel_saliencies(apply, params, batches, channels, probes)

    found, costs = context.micro_batching.run(saliencies), channels.cost_of_each()
    return [
        saliency / cost.clamp_min(1e-12) for saliency, cost in zip(found, costs, strict=True)
    ]  # a layer may be free


def update_masks(student: Student, transfer: Transfer, density: float, micro_batching: MicroBatching) -> Masks:
    """The masks of the highest scores at this density over all prunable weights."""
    settings = transfer.settings
    score = SCORES[settings.score] if isinstance(settings.score, str) else settings.score
    context = ScoreContext(student, transfer, density, micro_batching)
    if settings.channels is not None:
        of_channels = _channel_scores(context, score, settings.channels)
        weights = {name: student.params[name] for name in context.names}
        return settings.channels.masks(keep_channels(settings.channels, of_channels, limit=density), weights)
    scores = score(context)
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

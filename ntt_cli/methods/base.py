"""The methods of `ntt prune --method`: what each needs to see, and how its masks are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ntt_cli.data import Reading
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DivergedError
from ntt_cli.masks.allocation import Slices
from ntt_cli.masks.masks import apply_masks, choose_masks
from ntt_cli.masks.rounds import prune_in_rounds
from ntt_cli.methods.loss_gradient import grasp_scores, logit_snip_scores, snip_scores
from ntt_cli.methods.ntk_sap import ntk_sap_scores
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.methods.synflow import synflow_scores
from ntt_cli.methods.wanda import layer_input_norms, wanda_scores
from ntt_cli.methods.weights_alone import magnitude_scores, random_scores
from ntt_cli.networks.batch_norm import untrained_statistics
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.initialise import reinitialise
from ntt_cli.tensors import Masks, Params

Needs = Literal["nothing", "shape", "inputs", "labels"]
ROUNDS = 100
BATCHES = 10
"""Batches that a score by gradients is averaged over."""


@dataclass(frozen=True)
class MethodContext:
    """What a method may look at.

    Attributes:
        teacher: the dense network.
        names: its prunable weights.
        inputs: `None` where the method needs none and none were named.
        shape: of one sample, where that is known.
        settings: batch size, seed, allocation and densities.
        generator: of everything random.
    """

    teacher: FunctionalModel
    names: tuple[str, ...]
    inputs: Inputs | None
    shape: tuple[int, ...] | None
    settings: TransferSettings
    generator: torch.Generator

    def dense(self) -> Masks:
        """Masks that keep every weight."""
        return {name: torch.ones_like(self.teacher.params[name], dtype=torch.bool) for name in self.names}

    def masked(self, masks: Masks) -> Params:
        """The teacher's parameters under these masks."""
        return apply_masks(self.teacher.params, masks)

    def batches(self) -> Iterator[Tensor]:
        """Some inputs, without labels."""
        return (self._inputs.batch(indices, reading) for indices, reading in self._draws())

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Some inputs with their labels."""
        return (
            (self._inputs.batch(indices, reading), self._inputs.labels(indices)) for indices, reading in self._draws()
        )

    def ones(self) -> Tensor:
        """One sample of ones, in double precision unless the network takes integers."""
        if self.inputs is None:
            device = next(iter(self.teacher.params.values())).device
            return torch.ones(1, *self._shape, dtype=torch.float64, device=device)
        sample = torch.ones_like(self.inputs.batch(torch.arange(1)))
        return sample.double() if sample.is_floating_point() else sample

    def reinitialise(self) -> tuple[Params, Tensor]:
        """New weights, and a batch of Gaussian inputs, or of real ones where the network takes integers."""
        params, size = reinitialise(self.teacher.params, generator=self.generator), self.settings.batch_size
        if self.inputs is not None:
            real = self.inputs.batch(torch.randint(len(self.inputs), (size,), generator=self.generator))
            if not real.is_floating_point():
                return params, real
        like = next(iter(params.values()))
        return params, torch.randn(size, *self._shape, generator=self.generator, dtype=like.dtype).to(like.device)

    @property
    def _shape(self) -> tuple[int, ...]:
        if self.inputs is not None:
            return tuple(self.inputs.batch(torch.arange(1)).shape[1:])
        assert self.shape is not None
        return self.shape

    @property
    def _inputs(self) -> Inputs:
        assert self.inputs is not None
        return self.inputs

    def _draws(self) -> Iterator[tuple[Tensor, Reading]]:
        # The same samples in every round: rounds differ by their masks alone.
        generator, shape = torch.Generator().manual_seed(self.settings.seed), (self.settings.batch_size,)
        for number in range(BATCHES):
            yield torch.randint(len(self._inputs), shape, generator=generator), (self.settings.seed, number)


Score = Callable[[MethodContext, Masks], dict[str, Tensor]]


@dataclass(frozen=True)
class Method:
    """How masks are chosen.

    Attributes:
        needs: what of the data it sees; `shape` is that of one sample.
        allocation: the default; `None` leaves it to the network.
        score: of the weights under masks so far; `None` for the transfer, which has its own.
        rounds: how often it scores and prunes.
        rescaled: whether kept weights grow to make up for those removed.
        mask: what is done with the transfer's mask: `kept`, `shuffled` within each layer on the teacher's weights, or
            put on `fresh` random weights. Frankle et al. 2021, arXiv 2009.08576.
    """

    needs: Needs
    allocation: str | None
    score: Score | None = None
    rounds: int = 1
    rescaled: bool = False
    mask: Literal["kept", "shuffled", "fresh"] = field(default="kept")


def _random(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    return random_scores(context.teacher.params, context.names, generator=context.generator)


def _magnitude(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    return magnitude_scores(context.teacher.params, context.names)


def _snip(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    return snip_scores(context.teacher.bind(), context.masked(masks), context.names, context.labelled())


def _logit_snip(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    return logit_snip_scores(context.teacher.bind(), context.masked(masks), context.names, context.batches())


def _grasp(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    return grasp_scores(context.teacher.bind(), context.masked(masks), context.names, context.labelled())


def _synflow(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    buffers = untrained_statistics(context.teacher, context.teacher.buffers)
    doubled = {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}
    return synflow_scores(context.teacher.bind(doubled), context.masked(masks), context.names, context.ones())


def _ntk_sap(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    return ntk_sap_scores(context.teacher.bind(), masks, [context.reinitialise()], generator=context.generator)


def _wanda(context: MethodContext, masks: Masks) -> dict[str, Tensor]:
    params = context.teacher.params
    norms = layer_input_norms(context.teacher.bind(), params, context.names, context.batches())
    return wanda_scores(params, norms, context.names)


METHODS: dict[str, Method] = {
    "ntt": Method("inputs", None),
    "ntt-shuffled": Method("inputs", None, mask="shuffled"),
    "ntt-fresh": Method("inputs", None, mask="fresh"),
    "random": Method("nothing", "erk", _random),
    "random-rescaled": Method("nothing", "erk", _random, rescaled=True),
    "magnitude": Method("nothing", "erk", _magnitude),
    "wanda": Method("inputs", "layerwise", _wanda),
    "synflow": Method("shape", "global", _synflow, rounds=ROUNDS),
    "logit-snip": Method("inputs", "global", _logit_snip),
    "ntk-sap": Method("shape", "global", _ntk_sap, rounds=ROUNDS),
    "snip": Method("labels", "global", _snip),
    "iterative-snip": Method("labels", "global", _snip, rounds=ROUNDS),
    "grasp": Method("labels", "global", _grasp),
}


def one_shot_masks(method: Method, context: MethodContext) -> Masks:
    """The masks of a method that does not move weights.

    Raises:
        DivergedError: if a score is not finite.
    """

    def score(masks: Masks) -> dict[str, Tensor]:
        assert method.score is not None
        scores = method.score(context, masks)
        for name, values in scores.items():
            if not values.isfinite().all():
                raise DivergedError(name, "has scores that are not finite", hint="try another --method")
        return scores

    return prune_in_rounds(
        score,
        context.dense(),
        rounds=method.rounds,
        allocation=context.settings.allocation,
        density=context.settings.density,
        layer_density=context.settings.layer_density,
        slices=context.settings.slices,
    )


def shuffled(masks: Masks, *, slices: Slices, generator: torch.Generator) -> Masks:
    """Each layer's mask with its entries in random order; of `slices` every one keeps an entry."""
    drawn = {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view(mask.shape)
        for name, mask in masks.items()
        if name not in slices
    }
    scores = {name: torch.rand(masks[name].shape, generator=generator).to(masks[name].device) for name in slices}
    drawn |= choose_masks(scores, {name: int(masks[name].sum()) for name in slices}, slices=slices)
    return {name: drawn[name] for name in masks}

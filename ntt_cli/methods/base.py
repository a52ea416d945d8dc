"""What a pruning method is: a `Method`, what it is given, a `MethodContext`, and what it returns, a `Pruned`.

Each file beside this one holds one method; the folder `ntt/` holds Neural Tangent Transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ntt_cli.config import register_method
from ntt_cli.data import Reading
from ntt_cli.data.batch import Batch, map_batch
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DivergedError
from ntt_cli.masks.masks import apply_masks, layer_densities
from ntt_cli.masks.rounds import prune_channels_in_rounds, prune_in_rounds
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.initialise import reinitialise, rescale_by_density
from ntt_cli.networks.prepare import estimate_buffers
from ntt_cli.runs.run import Run
from ntt_cli.tensors import Apply, Masks, Params

__all__ = ["ROUNDS", "Method", "MethodContext", "Needs", "Pruned", "register_method"]

Needs = Literal["nothing", "shape", "inputs", "labels"]
ROUNDS = 100
"""The number of rounds of methods that score and prune alternately."""

BATCHES = 10
"""The number of batches that `MethodContext.batches` and `labelled` give."""


@dataclass(frozen=True)
class Pruned:
    """A sparse network.

    Attributes:
        params: its parameters, pruned entries zero.
        buffers: its buffers; batch-norm statistics are estimated for the sparse network.
        masks: bool, `True` = kept, by the name of their weight.
        history: for the report, values of each step or of each mask update, by name.
    """

    params: Params
    buffers: Params
    masks: Masks
    history: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodContext:
    """What a method is given.

    Attributes:
        teacher: the dense network; `params`, `weights` and `apply` are what most methods need of it.
        names: of its prunable weights.
        inputs: the unlabelled samples, with labels for methods that need them; `None` if there is no data.
        shape: of one sample; `None` if it is not known.
        outputs: the number of the network's outputs for one sample; 0 without inputs.
        settings: every option of the run: batch size, seed, density, allocation and, for NTT, the transfer's.
        generator: for the method's random draws.
        run: the run's micro-batches, processes, checkpoints and event sink.
        fresh: a function that initialises the network's parameters anew.
    """

    teacher: FunctionalModel
    names: tuple[str, ...]
    inputs: Inputs | None
    shape: tuple[int, ...] | None
    outputs: int
    settings: TransferSettings
    generator: torch.Generator
    run: Run
    fresh: Callable[[], Params]

    @property
    def params(self) -> Params:
        """All trainable parameters by name, without a graph."""
        return self.teacher.params

    @property
    def weights(self) -> Params:
        """The prunable parameters by name."""
        return {name: self.teacher.params[name] for name in self.names}

    @property
    def apply(self) -> Apply:
        """The network as a function: `apply(params, x) -> outputs [n, c]`."""
        return self.teacher.bind()

    def dense(self) -> Masks:
        """Masks that keep every weight."""
        return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}

    def masked(self, masks: Masks) -> Params:
        """All parameters; pruned entries are zero."""
        return apply_masks(self.teacher.params, masks)

    def pruned(self, params: Params, masks: Masks, history: Mapping[str, Tensor] | None = None) -> Pruned:
        """The sparse network of these parameters and masks. With inputs, its batch-norm statistics are estimated."""
        masked = apply_masks(params, masks)
        buffers = self.teacher.buffers
        if self.inputs is not None:
            buffers = estimate_buffers(self.teacher, masked, self.inputs)
        return Pruned(masked, buffers, masks, dict(history or {}))

    def batches(self) -> Iterator[Batch]:
        """`BATCHES` random batches of inputs, `[n, ...]` each, the same in every call."""
        return (self._inputs.batch(indices, reading) for indices, reading in self._draws())

    def labelled(self) -> Iterator[tuple[Batch, Tensor]]:
        """The same batches with their labels, `[n, ...]` and `[n]`, for methods that need labels."""
        return (self._inputs.labelled(indices, reading) for indices, reading in self._draws())

    def ones(self) -> Batch:
        """One sample of ones in double precision; a part of several that holds integers keeps the sample's values.

        If the network takes integers alone, in one tensor, they are ones.
        """
        if self.inputs is None:
            device = next(iter(self.teacher.params.values())).device
            return torch.ones(1, *self._shape, dtype=torch.float64, device=device)
        sample = self.inputs.batch(torch.arange(1))
        if isinstance(sample, Tensor) and not sample.is_floating_point():
            return torch.ones_like(sample)
        ones: Batch = map_batch(lambda x: torch.ones_like(x).double() if x.is_floating_point() else x, sample)
        return ones

    def reinitialised(self) -> tuple[Params, Batch]:
        """New random weights, and a batch of Gaussian inputs; integers and masks of zeros and ones are of samples."""
        params, size = reinitialise(self.teacher.params, generator=self.generator), self.settings.batch_size
        if self.inputs is not None:
            real = self.inputs.batch(self.inputs.draw(0, size, self.generator))
            return params, map_batch(lambda x: x if _is_given(x) else self._gaussian(x.shape), real)
        return params, self._gaussian((size, *self._shape))

    def _gaussian(self, shape: Sequence[int]) -> Tensor:
        like = next(iter(self.teacher.params.values()))
        return torch.randn(*shape, generator=self.generator, dtype=like.dtype).to(like.device)

    @property
    def _shape(self) -> tuple[int, ...]:
        assert self.shape is not None
        return self.shape

    @property
    def _inputs(self) -> Inputs:
        assert self.inputs is not None
        return self.inputs

    def _draws(self) -> Iterator[tuple[Tensor, Reading]]:
        # A new generator in each call, so that every round has the same samples: rounds differ by their masks alone.
        generator, size = torch.Generator().manual_seed(self.settings.seed), self.settings.batch_size
        for number in range(BATCHES):
            yield self._inputs.draw(number, size, generator), (self.settings.seed, number)


def _is_given(x: Tensor) -> bool:
    """Whether inputs are no measurements that could be drawn: integers, or a mask `[n, ...]` of zeros and ones."""
    return not x.is_floating_point() or (x.ndim == 2 and bool(x.any()) and bool(((x == 0) | (x == 1)).all()))


class Method:
    """A pruning method. A subclass defines `scores`; one that does more than choose masks defines `prune` instead.

    Attributes:
        name: the name that it is registered under.
        needs: the data that it needs: `nothing`, the `shape` of one sample, `inputs`, or inputs and `labels`.
        allocation: its default allocation: `erk`, `layerwise` or `global`; `None`: by the network.
        rounds: the number of times that it scores and prunes; the density falls geometrically over the rounds.
        rescaled: kept weights are divided by the square root of their layer's density.
        moves_weights: it changes the values of kept weights, in steps.
        kernel_term: its steps have a kernel term by default; otherwise they match outputs alone.
        default_steps: the number of steps without `--steps`; `None`: as for NTT.
        reinitialises: it returns newly initialised weights, so it does not apply to trained weights.
        takes_mask: its mask is another method's, which the option `mask` names; it learns none.
        replaces_weights: it makes the weights itself, so it does not apply to trained weights either.
        reads: the options of `ntt prune` that it reads, beside those that every method reads.
        options: the options that it was made with, by name.
        parts: objects that it was made with in place of options, by option; a checkpoint records their names.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> @ntt.register_method("gradient")
        ... class Gradient(ntt.Method):
        ...     needs, allocation = "inputs", "erk"
        ...
        ...     def __init__(self, power=1.0):
        ...         self.power = power
        ...
        ...     def scores(self, context, masks):
        ...         params = context.masked(masks)
        ...         loss = lambda params: context.apply(params, next(context.batches())).square().mean()
        ...         gradients = torch.func.grad(loss)(params)
        ...         return {name: (params[name] * gradients[name]).abs() ** self.power for name in context.names}
        >>> ntt.prune(torch.nn.Linear(4, 8), torch.randn(32, 4), sparsity=0.5, method=Gradient(power=2)).report.method
        'gradient'
    """

    name: ClassVar[str] = ""
    needs: ClassVar[Needs] = "inputs"
    allocation: ClassVar[str | None] = "global"
    rounds: int = 1
    rescaled: ClassVar[bool] = False
    moves_weights: ClassVar[bool] = False
    kernel_term: ClassVar[bool] = True
    default_steps: ClassVar[int | None] = None
    reinitialises: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False
    replaces_weights: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = frozenset()
    options: Mapping[str, Any] = {}
    parts: Mapping[str, Any] = {}

    def scores(self, context: MethodContext, masks: Masks) -> Mapping[str, Tensor]:
        """How much each weight is worth: the highest scores are kept.

        Args:
            context: the network, the data and the settings.
            masks: the masks so far, all `True` in the first round. Where they are `False`, scores should be zero.

        Returns:
            a tensor of scores, finite and of the weight's shape, for each of `context.names`.
        """
        raise NotImplementedError(f"{type(self).__name__} gives neither scores() nor prune()")

    def masks(self, context: MethodContext) -> Masks:
        """The masks of the highest scores, in as many rounds as the method takes.

        Raises:
            DivergedError: if a score is not finite.
        """

        def score(masks: Masks) -> Mapping[str, Tensor]:
            scores = self.scores(context, masks)
            for name, values in scores.items():
                if not values.isfinite().all():
                    raise DivergedError(name, "has scores that are not finite", hint="try another --method")
            return scores

        settings = context.settings
        if settings.channels is not None:
            return prune_channels_in_rounds(
                score,
                context.dense(),
                settings.channels,
                rounds=self.rounds,
                density=settings.density,
                norms=self.norms(),
            )
        return prune_in_rounds(
            score,
            context.dense(),
            rounds=self.rounds,
            allocation=settings.allocation,
            density=settings.density,
            layer_density=settings.layer_density,
            slices=settings.slices,
        )

    @classmethod
    def chooses_by_scores(cls) -> bool:
        """Whether its scores alone choose its masks, so that they can choose channels, too."""
        return cls.masks is Method.masks and cls.prune is Method.prune

    @classmethod
    def norms(cls) -> bool:
        """Whether scores tell nothing across layers: channels are then compared by norms, relative to their group."""
        return cls.allocation in {"erk", "layerwise"}

    def prune(self, context: MethodContext) -> Pruned:
        """The sparse network of `masks`, with the teacher's weights, or with these rescaled.

        Raises:
            DivergedError: if a number is not finite.
        """
        masks = self.masks(context)
        params = context.params
        return context.pruned(rescale_by_density(params, layer_densities(masks)) if self.rescaled else params, masks)

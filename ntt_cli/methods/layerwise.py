"""Pruning layer by layer: each layer is to give the dense one's outputs, on the inputs that the layers before leave it.

The dense network's layer has inputs `x_d` and weights `W_d`. The layers before it are pruned already, so its inputs
are now `x`. A method looks for sparse weights `W` with a small `Σ_t ‖W x_t − W_d x_dt‖²`. To that it needs two second
moments, `H = Σ x xᵀ` and `C = Σ x_d xᵀ`. Biases stay as they are. Batch-norm statistics are estimated once all is done.

With `--steps`, a transfer follows: it matches the whole network's outputs under these masks, from these weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ntt_cli.config import method_class
from ntt_cli.config.pattern import Groups
from ntt_cli.data.batch import Batch
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DivergedError, listed
from ntt_cli.masks.allocation import allocate
from ntt_cli.masks.masks import apply_masks, choose_masks
from ntt_cli.methods.base import MethodContext, Pruned
from ntt_cli.methods.lamp import lamp_scores
from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.method import TransferMethod
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.layer_inputs import Layout, layer_inputs, layers_in_order
from ntt_cli.runs.threads import threads_for
from ntt_cli.runtime.events import Noted, Warned
from ntt_cli.tensors import Masks, Params

SAMPLES = 1024
"""Samples that a layer is solved on, at most, drawn by the seed. Frantar et al. 2022 take as many."""

DAMPENING = 0.01
"""Added to the diagonal of `H`, as a share of its mean: the default of Frantar & Alistarh 2023."""

TELL_EVERY = 30.0
"""Seconds between two notes of how far the layers are."""


@dataclass(frozen=True)
class Layer:
    """A layer to prune, as matrices: its weights have the shape `[g, o, i]`, and are in double precision.

    Attributes:
        name: of its weight.
        weight: `W_d`.
        n_keep: how many weights it keeps over all groups.
        mask: chosen before, bool; `None`: the method chooses it.
        groups: of a pattern, along the last axis; `None`: the layer keeps any `n_keep` weights.
        pairs: gives the inputs of the dense and of the pruned network batch by batch, `[g, t, i]` each.
    """

    name: str
    weight: Float[Tensor, "g o i"]
    n_keep: int
    mask: Bool[Tensor, "g o i"] | None
    groups: Groups | None
    pairs: Callable[[], Iterator[tuple[Tensor, Tensor]]]

    def moments(self) -> tuple[Float[Tensor, "g i i"], Float[Tensor, "g i i"]]:
        """`H = Σ x xᵀ` and `C = Σ x_d xᵀ` over all positions of all samples.

        Raises:
            DivergedError: if an input is not finite.
        """
        groups, _, inputs = self.weight.shape
        hessian, cross = self.weight.new_zeros(2, groups, inputs, inputs)
        for dense, x in self.pairs():
            hessian += x.mT @ x
            cross += dense.mT @ x
        if not (hessian.isfinite().all() and cross.isfinite().all()):
            raise DivergedError(self.name, "has inputs that are not finite", hint="try another --method")
        return hessian, cross


class LayerwiseMethod(TransferMethod):
    """A method that prunes one layer after the other. A subclass defines `solve`, and may define `choose`."""

    allocation = "erk"
    kernel_term = False
    default_steps = 0
    reads = frozenset({
        "steps",
        "epochs",
        "batches",
        "batch_size",
        "learning_rate",
        "hidden",
        "compile",
        "checkpoint_every",
    })

    def solve(self, layer: Layer) -> tuple[Bool[Tensor, "g o i"], Float[Tensor, "g o i"]]:
        """The layer's mask, and its new weights, of which pruned entries do not count."""
        raise NotImplementedError

    def choose(self, context: MethodContext) -> Masks | None:
        """Masks that are chosen before any layer is solved; `None`: `solve` chooses them."""
        return None

    def masks(self, context: MethodContext) -> Masks:
        return self.solved(context)[1]

    def prune(self, context: MethodContext) -> Pruned:
        """The solved layers, after as many steps of distillation as were asked for."""
        return self.transfer(context) if context.settings.steps else context.pruned(*self.solved(context))

    def transfer_of(self, context: MethodContext) -> Transfer:
        assert context.inputs is not None
        start, masks = self.solved(context)
        return Transfer(context.teacher, context.inputs, context.names, context.outputs, context.settings, masks, start)

    def solved(self, context: MethodContext) -> tuple[Params, Masks]:
        """The network's parameters and masks once all layers are solved, the same in all processes."""
        assert context.inputs is not None
        group, params, masks = context.run.group, dict(context.params), context.dense()
        if group.first:  # rounding may rank weights in another order in another process
            with threads_for(context.teacher, context.inputs):
                params, masks = self._solve_all(context, context.inputs)
        return group.broadcast(params), group.broadcast(masks)

    def _solve_all(self, context: MethodContext, inputs: Inputs) -> tuple[Params, Masks]:
        settings, run, apply = context.settings, context.run, context.apply
        chosen = self.choose(context)
        # Global counts are compared by LAMP scores: other allocations look at nothing but shapes.
        scores = {name: lamp_scores(weight) for name, weight in context.weights.items()}
        counts = allocate(
            settings.allocation,
            scores,
            density=settings.density,
            layer_density=settings.layer_density,
            slices=settings.slices,
        )
        by_magnitude = choose_masks(magnitude_scores(context.params, context.names), counts, slices=settings.slices)
        masks: Masks = dict(chosen or by_magnitude)
        params = dict(context.params)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(settings.seed))[:SAMPLES]
        calibration = replace(inputs, samples=inputs.samples.subset(order))
        groups = {name: own for name, own in settings.slices.items() if isinstance(own, Groups)}
        # Slices that must not be empty belong to weights that are used in other ways, too.
        names = [name for name in context.names if name in groups or name not in settings.slices]
        first = calibration.batch(torch.arange(min(len(calibration), run.micro_batching.largest)))
        layouts = layers_in_order(apply, params, names, first)
        if others := [name for name in context.names if name not in layouts]:
            what = "no linear layers or convolutions alone, and keep their largest weights as they are"
            run.on_event(Warned(f"{self.name}: {listed(others)} act through {what}"))
        told = time.monotonic()
        for number, (name, layout) in enumerate(layouts.items(), start=1):
            dense, of_columns = context.params[name], None
            if name in groups:
                layout = layout.by_position(dense)
                of_columns = groups[name].model_copy(update={"axis": 2})

            def work(execution: Any) -> tuple[Tensor, Tensor]:
                at_once = execution.micro_batch or run.micro_batching.largest
                pairs = lambda: self._pairs(context, params, name, layout, calibration.in_order(at_once))  # noqa: B023, E731
                mask = None if chosen is None else layout.matrix(chosen[name])  # noqa: B023
                matrix = layout.matrix(dense.double())  # noqa: B023
                return self.solve(Layer(name, matrix, counts[name], mask, of_columns, pairs))  # noqa: B023

            mask, weight = run.micro_batching.run(work)
            if not weight.isfinite().all():
                raise DivergedError(name, "was solved for weights that are not finite", hint="try another --method")
            masks[name] = layout.weight(mask, dense)
            params[name] = torch.empty_like(dense).copy_(torch.where(masks[name], layout.weight(weight, dense), 0))
            if time.monotonic() - told > TELL_EVERY:
                run.on_event(Noted(f"{number} of {len(layouts)} layers are solved"))
                told = time.monotonic()
        return apply_masks(params, masks), masks

    def _pairs(
        self, context: MethodContext, params: Params, name: str, layout: Layout, batches: Iterator[Batch]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for x in batches:
            dense = layer_inputs(context.apply, context.params, name, layout, x)
            now = layer_inputs(context.apply, params, name, layout, x)
            if [part.shape for part in dense] != [part.shape for part in now]:
                dense = now  # a network may send samples elsewhere once it is pruned; then their own outputs count
            for one, other in zip(dense, now, strict=True):
                yield layout.columns(_at_least_single(one)), layout.columns(_at_least_single(other))


def fixed_masks(context: MethodContext) -> Masks:
    """The masks of the method that `--mask` names; those of magnitude if it names none."""
    name = context.settings.mask
    masks: Masks = method_class("magnitude" if name == "learned" else name)().masks(context)
    return masks


def damped(
    hessian: Float[Tensor, "g i i"], cross: Float[Tensor, "g i i"], *, dampening: float
) -> tuple[Float[Tensor, "g i i"], Float[Tensor, "g i i"]]:
    """`H + λ I` and `C + λ I`, with `λ` the share `dampening` of the mean of `H`'s diagonal.

    They are the moments of `Σ_t ‖W x_t − W_d x_dt‖² + λ ‖W − W_d‖²`. A layer without any input gets a `λ` of 1.
    """
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    shift = torch.where(mean > 0, dampening * mean, 1.0)[:, None, None] * torch.eye(hessian.shape[-1]).to(hessian)
    return hessian + shift, cross + shift


def masked_least_squares(
    hessian: Float[Tensor, "g i i"], target: Float[Tensor, "g o i"], mask: Bool[Tensor, "g o i"]
) -> Float[Tensor, "g o i"]:
    """The minimum of `½ w H wᵀ − g wᵀ` for each row `w`, `g` of the target, over the entries that its mask keeps.

    With `g = W_d C` these are the weights that come closest to the dense layer's outputs: `w_S = g_S (H_SS)⁻¹` for the
    kept inputs `S` of a row.
    """
    weight = torch.zeros_like(target)
    for group in range(len(target)):
        for row, kept in enumerate(mask[group]):
            inputs = kept.nonzero().flatten()
            factor = torch.linalg.cholesky(hessian[group][inputs][:, inputs])
            solved = torch.cholesky_solve(target[group, row, inputs, None], factor)
            weight[group, row, inputs] = solved[:, 0]
    return weight


def _at_least_single(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

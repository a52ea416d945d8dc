"""CTS-KL: masks learnt as random gates over untrained weights, by the outputs' divergence. Arora & Teuscher 2025."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.errors import UsageError
from ntt_cli.masks.schedule import cubic_density
from ntt_cli.methods.base import Method, MethodContext, Pruned, register_method
from ntt_cli.networks.prepare import estimate_buffers
from ntt_cli.runtime.events import TrainingStarted, TrainingStepsDone
from ntt_cli.runtime.seeding import seeded
from ntt_cli.tensors import Apply, Masks, Params

TEMPERATURE = 2 / 3
"""Of the gates; Maddison et al. 2017, arXiv 1611.00712, recommend it for variables of two values."""

RATE = 0.1
"""Adam's learning rate for the gates' logits."""

STATISTICS_EVERY = 100
"""Steps between two estimates of batch-norm statistics, which change as gates close."""


@register_method("cts-kl")
class CTSKL(Method):
    """Random gates that learn which weights keep the outputs' distribution, with untrained weights as they are."""

    reads = frozenset({"batch_size", "steps"})

    def masks(self, context: MethodContext) -> Masks:
        """As any method."""
        self._losses: list[Tensor] = []
        return super().masks(context)

    def prune(self, context: MethodContext) -> Pruned:
        """As any method, with the divergence of each step."""
        return replace(super().prune(context), history={"total": torch.stack(self._losses)})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        """The gates' logits after the last step, above the lowest of them.

        At each step, a gate `z = σ((α + s + noise) / τ)` with logistic noise multiplies each weight (Binary Concrete,
        Maddison et al. 2017), and Adam moves the logits `α` down the gradient of `KL(student ‖ teacher)`. Arora &
        Teuscher 2025, arXiv 2512.07142. Their GradBalance weighs the divergence against a penalty on the density.
        Here the shift `s` of all logits keeps the expected density on a cubic schedule exactly, so that there is
        nothing to weigh.

        Raises:
            UsageError: if batches cannot be divided into samples.
        """
        assert context.inputs is not None
        if context.inputs.samples.bundled:
            what = f"needs outputs for each sample; {context.inputs.samples.spec} gives whole batches"
            raise UsageError("--method cts-kl", what, hint="choose another method, or give samples of one shape")
        teacher, steps, density = context.teacher, context.settings.steps, context.settings.density
        logits = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in context.weights.items()}
        optimiser = torch.optim.Adam(logits.values(), lr=RATE)
        context.run.on_event(TrainingStarted(1, steps))
        student = teacher.bind()
        for step in range(steps):
            generator = seeded(context.settings.seed, step)
            indices = context.inputs.draw(step, context.settings.batch_size, generator)
            x = context.inputs.batch(indices, (context.settings.seed, step))
            shift = shift_to(logits, cubic_density(step + 1, steps=steps, density=density))
            if step % STATISTICS_EVERY == 0:
                student = teacher.bind(_statistics(context, logits, shift))
            gates = {name: gate(value + shift, generator=generator) for name, value in logits.items()}
            loss = self.loss(context, student, gates, x)
            for value, slope in zip(logits.values(), torch.autograd.grad(loss, list(logits.values())), strict=True):
                value.grad = slope
            optimiser.step()
            self._losses.append(loss.detach())
            context.run.on_event(TrainingStepsDone(step + 1, float(loss.detach())))
        lowest = min(float(value.detach().min()) for value in logits.values())
        return {name: value.detach() - lowest for name, value in logits.items()}

    def loss(self, context: MethodContext, student: Apply, gates: Params, x: Batch) -> Tensor:
        """How far the network with gates is from the teacher on a batch."""
        with torch.no_grad():
            wanted = context.apply(context.params, x)
        outputs = student(gated(context.params, gates), x)
        return divergence(_rows(context, outputs), _rows(context, wanted))


def gate(logits: Float[Tensor, "*shape"], *, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """A Binary Concrete variable, in (0, 1): `σ((logits + log u − log(1 − u)) / τ)` with uniform `u`."""
    u = torch.rand(logits.shape, generator=generator).to(logits).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid((logits + u.logit()) / TEMPERATURE)


def shift_to(logits: Mapping[str, Tensor], density: float) -> float:
    """The `s` with which the mean of `σ(logits + s)` over all weights is `density`, by bisection."""
    flat = torch.cat([value.detach().flatten() for value in logits.values()])
    low, high = -40 - float(flat.max()), 40 - float(flat.min())
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if float(torch.sigmoid(flat + middle).mean()) > density else (middle, high)
    return (low + high) / 2


def divergence(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """`KL(student ‖ teacher)` of the softmax over the last axis of each head, `[n, ..., c]`, per sample, summed."""
    total = torch.zeros(())
    for name, outputs in student.items():
        ours, theirs = outputs.log_softmax(-1), teacher[name].log_softmax(-1)
        total = total.to(ours) + (ours.exp() * (ours - theirs)).sum() / len(outputs)
    return total


def _rows(context: MethodContext, outputs: Float[Tensor, "n c"]) -> dict[str, Tensor]:
    heads = context.teacher.heads
    return {"output": outputs} if heads is None else heads.unflatten(outputs)


def gated(params: Params, gates: Mapping[str, Tensor]) -> Params:
    """The parameters, some of them times their gates."""
    return params | {name: params[name] * value for name, value in gates.items()}


def _statistics(context: MethodContext, logits: Mapping[str, Tensor], shift: float) -> Params:
    """The buffers with batch-norm statistics under the gates' expected values."""
    assert context.inputs is not None
    expected = {name: torch.sigmoid(value.detach() + shift) for name, value in logits.items()}
    return estimate_buffers(context.teacher, gated(context.params, expected), context.inputs)

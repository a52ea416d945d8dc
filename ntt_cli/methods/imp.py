"""IMP: train, drop the smallest weights, set the others back, and again. Frankle et al. 2020, arXiv 1912.05671.

A bound on what masks of untrained networks can reach, since it sees labels, and trains once for each round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.base import Method, MethodContext, Pruned, register_method
from ntt_cli.methods.snip import gradients_of, leaves_of
from ntt_cli.runtime.events import TrainingStarted, TrainingStepsDone
from ntt_cli.runtime.seeding import seeded
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Masks, Params

DROPPED = 0.2
"""The largest share of the weights that goes in one round, as in the paper."""

REWOUND_TO = 2000 / 63_000
"""How far the network is trained where its weights are set back to: the paper's share for ResNet-20."""


@register_method("imp")
class IMP(Method):
    """Iterative magnitude pruning with late rewinding: `steps` steps on labels in each round, by Adam."""

    needs = "labels"
    default_steps = 1000
    reads = frozenset({"batch_size", "steps", "learning_rate"})

    def masks(self, context: MethodContext) -> Masks:
        """The masks of the last round.

        Raises:
            DivergedError: if a weight is not finite.
        """
        steps, self.rounds = context.settings.steps, rounds_to(context.settings.density)
        early = math.ceil(REWOUND_TO * steps)
        context.run.on_event(TrainingStarted(1, early + self.rounds * steps))
        self._losses: list[Tensor] = []
        self._rewound = self._trained(context, context.params, context.dense(), early)
        return super().masks(context)

    def prune(self, context: MethodContext) -> Pruned:
        """The network as it is after its first few steps, under these masks, with the loss of each step."""
        masks = self.masks(context)
        return context.pruned(self._rewound, masks, {"total": torch.stack(self._losses)})

    def scores(self, context: MethodContext, masks: Masks) -> Mapping[str, Tensor]:
        """The magnitudes of all weights after a training from the rewound ones; zero where a mask is."""
        trained = self._trained(context, self._rewound, masks, context.settings.steps)
        return {name: trained[name].abs() for name in context.names}

    def _trained(self, context: MethodContext, params: Params, masks: Masks, steps: int) -> Params:
        """The parameters after so many more steps, with batch norm by the batch."""
        assert context.inputs is not None
        settings, apply = context.settings, context.teacher.bind(batch_statistics=True)
        leaves = leaves_of({name: p.clone() for name, p in apply_masks(params, masks).items()})
        optimiser = torch.optim.Adam(leaves.values(), lr=settings.learning_rate)
        for step in range(len(self._losses), len(self._losses) + steps):
            reading = (settings.seed, step)
            indices = context.inputs.draw(step, settings.batch_size, seeded(*reading))
            x, labels = context.inputs.labelled(indices, reading)
            with torch.enable_grad():
                loss = CLASSIFICATION.loss(apply(apply_masks(leaves, masks), x), labels)
                found = gradients_of(loss, leaves, leaves)
            for name, p in leaves.items():
                p.grad = found[name]
            optimiser.step()
            self._losses.append(loss.detach())
            context.run.on_event(TrainingStepsDone(step + 1, float(loss.detach())))
        return {name: p.detach() for name, p in apply_masks(leaves, masks).items()}


def rounds_to(density: float) -> int:
    """The number of rounds that lead to a density if none drops more than a fifth of the weights."""
    return max(1, math.ceil(math.log(density) / math.log(1 - DROPPED) - 1e-9))

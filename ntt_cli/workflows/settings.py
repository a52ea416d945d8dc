"""The transfer's settings: what the user gave, and a default for everything else that depends on model and data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from ntt_cli.config import PruneConfig
from ntt_cli.core.functional import FunctionalModel
from ntt_cli.core.objective import Objective

STEPS, BATCH_SIZE = 3000, 64
LOGIT_STEPS, LOGIT_BATCH_SIZE = 9000, 128
"""Without a kernel term a step costs a third, and more of them gave the more accurate network."""


@dataclass(frozen=True)
class TransferSettings:
    """What `run_transfer` needs of the configuration, every default settled."""

    steps: int
    density: float
    objective: Objective
    score: str
    allocation: str
    schedule: str
    active: bool
    batch_size: int
    learning_rate: float
    mask_update_every: int
    seed: int

    def recorded(self) -> dict[str, Any]:
        """The options that had no value of their own, under their names in the configuration."""
        return {
            "steps": self.steps,
            "epochs": None,
            "allocation": self.allocation,
            "batch_size": self.batch_size,
            "kernel_weight": self.objective.kernel_weight,
            "weight_penalty": self.objective.weight_penalty,
        }


def settle(config: PruneConfig, teacher: FunctionalModel, samples: int) -> TransferSettings:
    """The settings of a run over `samples` samples, 0 where there are none."""
    kernel_weight = config.kernel_weight
    if kernel_weight is None:
        kernel_weight = 1.0 if config.weights is None else 0.0
    penalty = config.weight_penalty
    if penalty is None:
        penalty = _weight_penalty(config, teacher)
    steps, batch_size = (STEPS, BATCH_SIZE) if kernel_weight else (LOGIT_STEPS, LOGIT_BATCH_SIZE)
    batch_size = config.batch_size or batch_size
    steps = config.steps or steps
    if config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * samples / batch_size))
    return TransferSettings(
        steps=steps,
        density=1 - config.sparsity,
        objective=Objective(config.objective, kernel_weight, penalty),
        score=config.score,
        allocation=config.allocation or _allocation(config),
        schedule=config.schedule,
        active=config.kernel_params == "active",
        batch_size=batch_size,
        learning_rate=config.learning_rate,
        mask_update_every=config.mask_update_every,
        seed=config.seed,
    )


def _weight_penalty(config: PruneConfig, teacher: FunctionalModel) -> float:
    if config.preset != "paper" or config.weights is not None:
        return 0.0
    convolutional = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in teacher.module.modules())
    return 1e-5 if convolutional else 1e-4


def _allocation(config: PruneConfig) -> str:
    return "global" if config.method == "ntt" and config.score == "saliency" else "erk"

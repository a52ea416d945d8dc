"""The transfer's settings: what the user gave, and a default for everything else that depends on model and data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ntt_cli.config import LEAVE_OUT, PruneConfig, as_typed, method_class
from ntt_cli.errors import UsageError
from ntt_cli.masks.allocation import Allocate
from ntt_cli.masks.schedule import Fall
from ntt_cli.methods.ntt.objective import Objective
from ntt_cli.networks.functional import FunctionalModel

STEPS, BATCH_SIZE = 3000, 64
AUTO_HORIZON = 1000
"""With `--steps auto` masks fall to their density as in a run of so many steps: over the first half of them."""

MOST_AUTO_UPDATE = AUTO_HORIZON // 10
"""Most steps between two mask updates then."""

LOGIT_STEPS, LOGIT_BATCH_SIZE = 9000, 128
"""Without a kernel term a step costs a third, and more of them gave the more accurate network."""


@dataclass(frozen=True)
class TransferSettings:
    """What a run needs of the configuration, every default settled.

    Attributes that are not options of the same name:
        steps: so many, or with `auto` at most.
        auto: the transfer ends when the validation distance has flattened.
        objective: form and weights of the loss.
        affinity: with saliency, units prefer inputs that vary together.
        active: take the kernel over kept entries only.
        score: a name, or a `Score`; so are allocation and schedule a name or a function.
        compiled: steps of whole batches are compiled.
        layer_density: densities of the weights that `--layer-density` names.
        slices: the axis of each weight that must not lose a whole slice along it.
    """

    steps: int
    auto: bool
    density: float
    objective: Objective
    mask: str
    score: Any
    affinity: bool
    allocation: str | Allocate
    schedule: str | Fall
    active: bool
    batch_size: int
    batches: int | None
    learning_rate: float
    mask_update_every: int
    micro_batch: int | None
    compiled: bool
    seed: int
    layer_density: dict[str, float]
    slices: dict[str, int] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """The options that had no value of their own, under their names in the configuration."""
        return {
            "steps": "auto" if self.auto else self.steps,
            "epochs": None,
            "allocation": self.allocation,
            "batch_size": self.batch_size,
            "kernel_weight": self.objective.kernel_weight,
            "weight_penalty": self.objective.weight_penalty,
        }


def settle(
    config: PruneConfig,
    teacher: FunctionalModel,
    names: Sequence[str],
    *,
    samples: int,
    trained: bool,
    allocation: str | None,
) -> TransferSettings:
    """The settings of a run.

    Args:
        config: as the user gave it.
        teacher: the dense network.
        names: its prunable weights.
        samples: how many there are to learn from; 0 where there are none.
        trained: the teacher's weights are more than a draw of the initialisation.
        allocation: the method's default; `None` for the network's.

    Raises:
        UsageError: if `--layer-density` cannot be read or names no prunable weight, or an option would do nothing.
    """
    kernel_weight = config.kernel_weight
    if kernel_weight is None:
        kernel_weight = 0.0 if trained else 1.0
    if not kernel_weight and config.gives("kernel_params"):
        what = "there is no kernel term to read it; --kernel-weight 1 adds one"
        raise UsageError(as_typed(config, "kernel_params"), what, hint=LEAVE_OUT)
    penalty = config.weight_penalty
    if penalty is None:
        penalty = _weight_penalty(config, teacher, trained=trained)
    steps, batch_size = (STEPS, BATCH_SIZE) if kernel_weight else (LOGIT_STEPS, LOGIT_BATCH_SIZE)
    batch_size = config.batch_size or batch_size
    auto = config.steps == "auto"
    if auto and config.mask_update_every > MOST_AUTO_UPDATE:
        what = f"with --steps auto masks change every {MOST_AUTO_UPDATE} steps at least"
        raise UsageError(as_typed(config, "mask_update_every"), what, hint=f"give {MOST_AUTO_UPDATE} or less")
    if isinstance(config.steps, int):
        steps = config.steps
    if config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * samples / batch_size))
    return TransferSettings(
        steps=steps,
        auto=auto,
        density=1 - config.sparsity,
        objective=Objective(config.objective, kernel_weight, penalty),
        mask=config.mask,
        score=config.score,
        affinity=not trained,  # trained weights know what belongs together
        allocation=config.allocation or _of_mask(config) or allocation or _allocation(teacher),
        schedule=config.schedule,
        active=config.kernel_params == "active",
        batch_size=batch_size,
        batches=config.batches,
        learning_rate=config.learning_rate,
        mask_update_every=config.mask_update_every,
        micro_batch=config.micro_batch,
        compiled=config.compile,
        seed=config.seed,
        layer_density=_layer_density(config.layer_density, names),
    )


def _weight_penalty(config: PruneConfig, teacher: FunctionalModel, *, trained: bool) -> float:
    if config.preset != "paper" or trained:
        return 0.0
    return 1e-5 if _convolves(teacher) else 1e-4


def _of_mask(config: PruneConfig) -> str | None:
    """The default of the method that fixes the masks."""
    found: str | None = None if config.mask == "learned" else method_class(config.mask).allocation
    return found


def _allocation(teacher: FunctionalModel) -> str:
    # ERK counts weights, not how often each is used: it starves convolutions, whose weights are used everywhere.
    return "global" if _convolves(teacher) else "erk"


def _convolves(teacher: FunctionalModel) -> bool:
    return any(isinstance(layer, nn.modules.conv._ConvNd) for layer in teacher.module.modules())


def _layer_density(given: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Densities by weight; the last pattern that matches one counts.

    Raises:
        UsageError: if an entry cannot be read or matches nothing.
    """
    densities: dict[str, float] = {}
    for entry in given:
        pattern, _, number = entry.rpartition("=")
        option = f"--layer-density {entry}"
        try:
            density = float(number)
        except ValueError:
            density = math.nan
        if not pattern or not 0 < density <= 1:
            raise UsageError(option, "is not PATTERN=DENSITY", hint="write 'conv1.*=0.5', a density above 0, at most 1")
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise UsageError(option, "matches no prunable weight", hint=f"they are {', '.join(names)}")
        densities |= dict.fromkeys(matching, density)
    return densities

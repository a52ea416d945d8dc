"""The transfer's settings: the user's options, and the defaults that depend on the model, its weights and the data.

All other defaults are in `config/`. docs/experiments.md gives the measurements behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ntt_cli.config import LEAVE_OUT, PruneConfig, as_typed, method_class
from ntt_cli.config.methods import MethodType
from ntt_cli.errors import UsageError
from ntt_cli.masks.allocation import Allocate
from ntt_cli.masks.channels import Channels
from ntt_cli.masks.masks import Slices
from ntt_cli.masks.schedule import Schedule
from ntt_cli.methods.ntt.objective import Objective
from ntt_cli.networks.functional import FunctionalModel

STEPS, OUTPUT_STEPS = 3000, 6000
"""The defaults with a kernel term (docs/notebook/12-transfer-length.md) and without one, where a step costs a third and
more steps gave a more accurate network (docs/notebook/32-falling-rate.md)."""

BATCH_SIZE = 64
"""The default; half of it is each side of the kernel."""

AUTO_HORIZON = 1000
"""With `--steps auto` the density falls as in a run of so many steps: over the first half of them."""

LONGEST_AUTO_WINDOW = AUTO_HORIZON // 10
"""With `--steps auto`, the largest number of steps between two mask updates."""

OF_STEPS = ("batches", "learning_rate", "hidden", "compile")
"""Options that do nothing where no steps are taken."""


@dataclass(frozen=True)
class TransferSettings:
    """What a run needs of the configuration, with every default filled in.

    Attributes that are no options, or mean something else than the option of their name:
        steps: the number of steps; with `auto` the largest possible.
        auto: the transfer ends when the validation distance no longer falls (`--steps auto`).
        density: `d`, the kept fraction of the prunable weights in the end; of the operations with `--target-flops`.
        objective: the distances, and the factors of the loss's terms.
        mask: `learned`, or the method whose masks stay fixed.
        score: a name or a `Score`. In the same way, `allocation` and `schedule` are a name or a function.
        trained: the teacher is worth keeping: the loss limits the length of steps (`step.py`), and the learning rate
            falls (`plan.py`).
        hidden: the student matches what the network's blocks return, too (`networks/hidden.py`).
        affinity: the score `saliency` is multiplied by the affinity (`affinity.py`).
        batches: the batches of the first so many steps come again in turn; `None`: each step draws new ones.
        compiled: steps are compiled where a batch goes through the network as a whole.
        layer_density: densities by weight, from the patterns of `--layer-density`.
        slices: by weight, the slices that must keep entries, or the groups of a pattern.
        channels: with `--structure channels`, the channels to choose from; `None`: single weights are chosen.
    """

    steps: int
    auto: bool
    density: float
    objective: Objective
    mask: str
    score: Any
    affinity: bool
    allocation: str | Allocate
    schedule: str | Schedule
    batch_size: int
    batches: int | None
    learning_rate: float
    mask_update_every: int
    micro_batch: int | None
    compiled: bool
    seed: int
    layer_density: dict[str, float]
    trained: bool = False
    hidden: bool = False
    slices: Mapping[str, Slices] = field(default_factory=dict)
    channels: Channels | None = None

    def recorded(self) -> dict[str, Any]:
        """Options whose defaults were filled in, under their names in the configuration, for the checkpoint."""
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
    method: MethodType,
) -> TransferSettings:
    """The settings of a run: the user's options, with defaults filled in.

    Trained weights get no kernel term by default (docs/notebook/13-trained-convolutions.md). `samples` is their number,
    0 without data. The class `method` has defaults of its own.

    Raises:
        UsageError: if `--layer-density` cannot be read or names no prunable weight, or an option would do nothing.
    """
    usual = float(method.kernel_term and not trained)
    kernel_weight = usual if config.kernel_weight is None else config.kernel_weight
    _refuse_idle(config, method, kernel_weight)
    steps, batch_size = _length(config, method, samples, kernel_weight)
    return TransferSettings(
        steps=steps,
        auto=config.steps == "auto",
        density=config.density,
        objective=Objective(
            config.objective,
            kernel_weight,
            _weight_penalty(config, teacher, trained=trained),
            active=config.kernel_params == "active",
            heads=teacher.heads.sizes if teacher.heads else (),
        ),
        mask=config.mask,
        score=config.score,
        affinity=not trained,  # training has chosen each unit's inputs already
        allocation=_allocation(config, teacher, method.allocation),
        schedule=config.schedule,
        batch_size=batch_size,
        batches=config.batches,
        learning_rate=config.learning_rate,
        mask_update_every=config.mask_update_every,
        micro_batch=config.micro_batch,
        compiled=config.compile,
        seed=config.seed,
        layer_density=_layer_density(config.layer_density, names),
        trained=trained and config.preset != "paper",
        hidden=config.hidden,
    )


def _refuse_idle(config: PruneConfig, method: MethodType, kernel_weight: float) -> None:
    """Refuse options that would do nothing with this kernel term, or this method."""
    if method.takes_mask and config.gives("mask") and config.mask == "learned":
        what = f"{config.method} learns no mask; it takes that of another method, magnitude by default"
        raise UsageError(as_typed(config, "mask"), what, hint="name a method, or leave it out")
    if not kernel_weight and config.gives("kernel_params"):
        what = "there is no kernel term to read it; --kernel-weight 1 adds one"
        raise UsageError(as_typed(config, "kernel_params"), what, hint=LEAVE_OUT)
    if config.hidden and kernel_weight:
        hint = "leave it out, or give --kernel-weight 0"
        raise UsageError("--hidden", "matches hidden values, which have no part in a kernel term", hint=hint)
    if config.hidden and config.objective == "paper":
        what = "matches hidden values relative to their norms, not as --objective paper does"
        raise UsageError("--hidden", what, hint=LEAVE_OUT)


def _length(config: PruneConfig, method: MethodType, samples: int, kernel_weight: float) -> tuple[int, int]:
    """The number of steps, with `auto` the largest possible, and the samples of each."""
    steps = STEPS if kernel_weight else OUTPUT_STEPS
    batch_size = config.batch_size or BATCH_SIZE
    if config.steps == "auto":
        if config.mask_update_every > LONGEST_AUTO_WINDOW:
            what = f"with --steps auto masks change every {LONGEST_AUTO_WINDOW} steps at least"
            raise UsageError(as_typed(config, "mask_update_every"), what, hint=f"give {LONGEST_AUTO_WINDOW} or less")
    elif isinstance(config.steps, int):
        steps = config.steps
    elif method.default_steps is not None:
        steps = method.default_steps
    if config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * samples / batch_size))
    if not steps and (idle := next(filter(config.gives, OF_STEPS), None)) is not None:
        what = f"is of steps, and {config.method} takes none unless it is told"
        raise UsageError(as_typed(config, idle), what, hint="give --steps, or leave it out")
    return steps, batch_size


def _weight_penalty(config: PruneConfig, teacher: FunctionalModel, *, trained: bool) -> float:
    """λ_2. The default is the paper's with `--preset paper`, 1e-5 with convolutions and else 1e-4; otherwise 0."""
    if config.weight_penalty is not None:
        return config.weight_penalty
    if config.preset != "paper" or trained:
        return 0.0
    return 1e-5 if _convolves(teacher) else 1e-4


def _allocation(config: PruneConfig, teacher: FunctionalModel, usual: str | None) -> str:
    """As given, or that of the method that `--mask` names, or the method's usual one, or by the network."""
    of_mask: str | None = None if config.mask == "learned" else method_class(config.mask).allocation
    # ERK counts a convolution's weight once, although every position uses it: convolutions would keep too few weights.
    return config.allocation or of_mask or usual or ("global" if _convolves(teacher) else "erk")


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

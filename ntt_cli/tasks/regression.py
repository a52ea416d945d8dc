"""Regression: targets are numbers, of the shape of the outputs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import mse_loss

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.tasks.base import Statistics, Task, require_targets


class Regression(Task):
    """Regression with the mean squared error."""

    name = "regression"
    headline = "mse"
    of_logits = True
    may_lack = frozenset({"r2"})

    def loss(self, outputs: Float[Tensor, "n *shape"], targets: Shaped[Tensor, "n *more"]) -> Float[Tensor, ""]:
        return mse_loss(outputs, like_outputs(targets, outputs))

    def statistics(self, outputs: Float[Tensor, "n *shape"], targets: Shaped[Tensor, "n *more"]) -> Statistics:
        """Sums over samples, for each output: of errors and of targets."""
        ours, theirs = outputs.double(), like_outputs(targets, outputs).double()
        return {
            "count": self.count(targets),
            "loss": self.total(outputs, targets),
            "absolute": (ours - theirs).abs().sum(dim=0),
            "square": (ours - theirs).square().sum(dim=0),
            "target": theirs.sum(dim=0),
            "target square": theirs.square().sum(dim=0),
        }

    def results(self, statistics: Statistics) -> dict[str, float]:
        """Mean squared and mean absolute error, and R² averaged over the outputs whose targets are not constant."""
        n = float(statistics["count"])
        found = {"mse": float(statistics["square"].mean()) / n, "mae": float(statistics["absolute"].mean()) / n}
        spread = statistics["target square"] - statistics["target"].square() / n
        varies = spread > ROUNDING * statistics["target square"]
        if varies.any():
            found["r2"] = float((1 - statistics["square"][varies] / spread[varies]).mean())
        return found | {"loss": float(statistics["loss"]) / n}

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse targets of another shape than the outputs.

        Raises:
            DataError: if targets are missing, or of another shape.
        """
        targets = check_shape(inputs, shape=shape, purpose=purpose)
        x = inputs.samples.source.fetch(torch.arange(1))
        are_pixels = isinstance(x, Tensor) and x.dtype == torch.uint8 and targets.shape[1:] == x.shape[1:]
        if are_pixels and bool(targets.max() > 1):
            what = "targets are amounts of 0 to 255 as stored, and the inputs, which are pixels, are read as 0 to 1"
            on_event(Warned(f"{what}: store targets as floats in [0, 1] if they are meant to be the same"))


ROUNDING = 1e-12
"""A variance below this share of the mean square is rounding: the targets are constant."""


def like_outputs(targets: Shaped[Tensor, "n *more"], outputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
    """The targets in the shape and type of the outputs, from which they may differ by axes of length one."""
    return targets.to(outputs.dtype).reshape(outputs.shape)


def fits(target: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether two shapes are the same but for axes of length one."""
    return [size for size in target if size != 1] == [size for size in shape if size != 1]


def check_shape(inputs: Inputs, *, shape: tuple[int, ...], purpose: str) -> Tensor:
    """The targets, of the outputs' shape.

    Raises:
        DataError: if targets are missing, or of another shape.
    """
    targets, spec = require_targets(inputs, purpose=purpose), inputs.samples.spec
    if not isinstance(targets, Tensor):
        what = "has targets of several parts, which a task of its own takes: loss(outputs, targets) in model.py"
        raise DataError(spec, what, hint="define that function, or name data with one tensor of targets")
    if not fits(tuple(targets.shape[1:]), shape):
        what = f"has targets of shape {[*targets.shape]} for outputs of shape {[len(targets), *shape]}"
        hint = "save one number for each output, or pick other outputs with --logits, or name another --task"
        raise DataError(spec, what, hint=hint)
    return targets

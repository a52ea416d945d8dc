"""Classification: one class for each sample, or for each position of a sample such as a token or a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import cross_entropy

from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import IGNORED
from ntt_cli.errors import DataError
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.tasks.base import Statistics, Task, require_targets
from ntt_cli.tasks.metrics import mean_iou, top_k_correct

LABELS_A_CLASS = 20
"""Without class names, an unused output is reported only from this many labels for each output."""

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Classification(Task):
    """Classification with cross-entropy loss; the highest logit is the chosen class.

    Attributes:
        smoothing: the share of each target that is spread evenly over all classes.
        weights: of each class in the training loss, whose mean is over weights; `None` weighs all alike.
    """

    smoothing: float = 0.0
    weights: tuple[float, ...] | None = None

    name = "classification"
    headline = "accuracy"
    higher_is_better = True
    of_logits = True
    has_classes = True
    class_axis = -1

    def rows(self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *more2"]) -> tuple[Tensor, Tensor]:
        """A row of logits for each target, `[r, c]`, from `[n, *positions, c]` or the same flattened; and targets."""
        return outputs.reshape(targets.numel(), -1), targets.flatten()

    def loss(
        self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *more2"], reduction: Reduction = "mean"
    ) -> Float[Tensor, ""]:
        """The cross-entropy over all targets that count."""
        rows, flat = self.rows(outputs, targets)
        weight = None if self.weights is None else torch.tensor(self.weights, dtype=rows.dtype, device=rows.device)
        return cross_entropy(
            rows, flat, weight, ignore_index=IGNORED, reduction=reduction, label_smoothing=self.smoothing
        )

    def total(self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *more2"]) -> Float[Tensor, ""]:
        return self.loss(outputs, targets, "sum")

    def count(self, targets: Int[Tensor, "n *positions"]) -> Shaped[Tensor, ""]:
        counted = targets != IGNORED
        if self.weights is None:
            return counted.sum()
        weights = torch.tensor(self.weights, dtype=torch.float32, device=targets.device)
        return weights[targets[counted]].sum()

    def select(self, mask: Tensor, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The same outputs; targets of those that do not count become ones to ignore."""
        of_targets = mask.all(dim=self.class_axis).expand(targets.shape)
        return outputs, targets.masked_fill(~of_targets, IGNORED)

    def statistics(self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *more2"]) -> Statistics:
        """Of each class, how many labels there are, and how many are the first choice."""
        rows, flat = self.rows(outputs, targets)
        loss, counted = cross_entropy(rows, flat, ignore_index=IGNORED, reduction="sum"), flat != IGNORED
        rows, labels, classes = rows[counted], flat[counted], rows.shape[1]
        right = labels[rows.argmax(dim=1) == labels]
        return {
            "count": counted.sum(),
            "loss": loss,
            "labels": torch.bincount(labels, minlength=classes),
            "right": torch.bincount(right, minlength=classes),
            "top5": top_k_correct(rows, labels, k=5).sum(),
        }

    def results(self, statistics: Statistics) -> dict[str, float]:
        """Accuracy, top-5 accuracy if there are more than five classes, and loss."""
        n = float(statistics["count"])
        found = {"accuracy": float(statistics["right"].sum()) / n}
        if len(statistics["labels"]) > 5:
            found["top5"] = float(statistics["top5"]) / n
        return found | {"loss": float(statistics["loss"]) / n}

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse data without labels, or with labels without an output; warn of outputs without a class.

        The shape of one sample's logits is `(*positions, classes)`.

        Raises:
            DataError: if labels are missing or out of range, or their number differs from that of the rows of logits.
        """
        labels, spec = require_targets(inputs, purpose=purpose), inputs.samples.spec
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            raise DataError(spec, f"has {described(labels)}, not class numbers", hint=CLASS_NUMBERS)
        if not shape:
            what = "has classes as labels, and the network one number for each sample"
            raise DataError(spec, what, hint="name other labels or outputs")
        *positions, classes = shape
        if list(labels.shape[1:]) != positions:
            what = f"has labels of shape {[*labels.shape]} for logits of shape {[len(labels), *shape]}"
            hint = "save one whole number for each row of logits, not one-hot rows, or pick others with --logits"
            raise DataError(spec, what, hint=hint)
        check_range(labels, classes, spec)
        names = inputs.samples.class_names
        if names is None and (labels.ndim > 1 or len(labels) < LABELS_A_CLASS * classes):
            return
        known = int(labels.max()) + 1 if names is None else len(names)
        if known < classes:
            on_event(Warned(f"{spec} has {known:,} classes, and the network {classes:,} outputs: some have no class"))


class PixelClassification(Classification):
    """A class for each pixel, or each position of another grid: logits `[n, c, *grid]` and labels `[n, *grid]`."""

    name = "pixel-classification"
    headline = "mean_iou"
    has_classes = False
    class_axis = 1

    def rows(self, outputs: Shaped[Tensor, "n c *grid"], targets: Shaped[Tensor, "n *grid"]) -> tuple[Tensor, Tensor]:
        return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), targets.flatten()

    def statistics(self, outputs: Shaped[Tensor, "n c *grid"], targets: Shaped[Tensor, "n *grid"]) -> Statistics:
        """As for classification, and of each class how many pixels are given it."""
        rows, flat = self.rows(outputs, targets)
        chosen = rows[flat != IGNORED].argmax(dim=1)
        found = super().statistics(outputs, targets)
        return found | {"chosen": torch.bincount(chosen, minlength=rows.shape[1])}

    def results(self, statistics: Statistics) -> dict[str, float]:
        """Pixel accuracy, the mean over classes of intersection over union, and loss."""
        n = float(statistics["count"])
        return {
            "pixel_accuracy": float(statistics["right"].sum()) / n,
            "mean_iou": mean_iou(statistics["right"], statistics["labels"], statistics["chosen"]),
            "loss": float(statistics["loss"]) / n,
        }

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse labels that are not one class for each pixel.

        Raises:
            DataError: if labels are missing, of another shape or out of range.
        """
        labels, spec = require_targets(inputs, purpose=purpose), inputs.samples.spec
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            raise DataError(spec, f"has {described(labels)}, not class numbers", hint=CLASS_NUMBERS)
        if not fits_grid(tuple(labels.shape[1:]), shape):
            what = f"has labels of shape {[*labels.shape]} for maps of shape {[len(labels), *shape]}"
            hint = "save one whole number for each pixel: [n, height, width] for maps [n, classes, height, width]"
            raise DataError(spec, what, hint=hint)
        check_range(labels, shape[0], spec)


class LanguageModelling(Classification):
    """The next token at each position: logits `[n, t, v]` and tokens `[n, t]`.

    Attributes:
        shifted: whether targets are the inputs themselves, so that the logits at a position predict the next target.
    """

    name = "language-modelling"
    headline = "perplexity"
    higher_is_better = False
    has_classes = False
    shifted = False

    def rows(self, outputs: Shaped[Tensor, "n t v"], targets: Shaped[Tensor, "n t"]) -> tuple[Tensor, Tensor]:
        if self.shifted:
            outputs, targets = outputs[:, :-1], targets[:, 1:]
        return super().rows(outputs, targets)

    def count(self, targets: Int[Tensor, "n t"]) -> Shaped[Tensor, ""]:
        return super().count(targets[:, 1:] if self.shifted else targets)

    def results(self, statistics: Statistics) -> dict[str, float]:
        """Perplexity, accuracy over tokens, and loss."""
        found = super().results(statistics)
        # The largest loss whose exponential is a float.
        perplexity = math.exp(min(found["loss"], 700.0))
        return {"perplexity": perplexity, "token_accuracy": found["accuracy"], "loss": found["loss"]}

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse targets that are not one token for each position; note if they are shifted.

        Raises:
            DataError: if targets are missing, of another shape or out of range.
        """
        super().check(inputs, lambda _: None, shape=shape, purpose=purpose)
        if len(shape) != 2:
            what = f"has one label a sample, and the network outputs of shape {list(shape)}, not [positions, tokens]"
            raise DataError(inputs.samples.spec, what, hint="name another --task")
        if self.shifted:
            if shape[0] < 2:
                what = "has sequences of one token, which have no next token"
                raise DataError(inputs.samples.spec, what, hint="name longer sequences")
            what = "targets are the inputs themselves: the outputs at each position predict the next token"
            on_event(Noted(what))


class ShiftedLanguageModelling(LanguageModelling):
    """Language modelling whose targets are the inputs themselves."""

    shifted = True


CLASSIFICATION = Classification()

CLASS_NUMBERS = (
    "save the number of each sample's class, by y.astype('int64'), of one-hot rows by y.argmax(1);"
    " for other targets name another --task"
)


def balanced_weights(labels: Int[Tensor, "n *positions"], classes: int) -> tuple[float, ...]:
    """One over the number of each class's labels, times their mean number; 0 for a class without labels."""
    counts = torch.bincount(labels[labels != IGNORED], minlength=classes).double()
    present = counts > 0
    mean = counts[present].mean()
    return tuple(torch.where(present, mean / counts.clamp_min(1), 0.0).tolist())


def check_range(labels: Int[Tensor, "n *positions"], classes: int, spec: str) -> None:
    """Refuse labels without an output.

    Raises:
        DataError: if a label is out of range, or none counts.
    """
    wrong = (labels >= classes) | ((labels < 0) & (labels != IGNORED))
    if wrong.any():
        first = tuple(int(i) for i in wrong.nonzero()[0])
        what = f"label {int(labels[first])} of sample {first[0]} is out of range: the model has {classes} outputs"
        raise DataError(spec, what, hint="mend the labels, or build the model with more outputs (--model-arg)")
    if (labels == IGNORED).all():
        raise DataError(spec, f"has no label but {IGNORED}, which counts for nothing", hint="name labelled data")


def fits_grid(target: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether targets of this shape have one entry for each place of maps `(c, *grid)`, with an axis of one or not."""
    return len(shape) > 1 and target in {shape[1:], (1, *shape[1:])}


def described(targets: object) -> str:
    """Targets in words."""
    if not isinstance(targets, Tensor):
        return "targets of several parts"
    return f"targets of type {str(targets.dtype).removeprefix('torch.')} and shape {list(targets.shape)}"

"""Classification: one class for each sample, or for each position of a sample such as a token or a pixel."""

from __future__ import annotations

from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import cross_entropy

from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import IGNORED
from ntt_cli.errors import DataError
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.tasks.base import Reduction, Task

LABELS_A_CLASS = 20
"""Without class names, an unused output is reported only from this many labels for each output."""


class Classification(Task):
    """Classification with cross-entropy loss; the highest logit is the chosen class."""

    name = "classification"

    def loss(
        self, outputs: Shaped[Tensor, "n *more"], targets: Int[Tensor, "n *positions"], reduction: Reduction = "mean"
    ) -> Float[Tensor, ""]:
        """The cross-entropy, over rows of logits for each label, `[n, *positions, c]`, or the same flattened."""
        rows = outputs.reshape(targets.numel(), -1)
        return cross_entropy(rows, targets.flatten(), ignore_index=IGNORED, reduction=reduction)

    def count(self, targets: Int[Tensor, "n *positions"]) -> Int[Tensor, ""]:
        return (targets != IGNORED).sum()

    def correct(self, outputs: Shaped[Tensor, "n *more"], targets: Int[Tensor, "n *positions"]) -> int:
        rows, counted = counted_rows(outputs, targets)
        return int((rows.argmax(dim=1) == counted).sum())

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse data without labels, or with labels without an output; warn of outputs without a class.

        The shape of one sample's logits is `(*positions, classes)`.

        Raises:
            DataError: if labels are missing or out of range, or their number differs from that of the rows of logits.
        """
        labels, spec = inputs.samples.labels, inputs.samples.spec
        if labels is None:
            raise DataError(spec, f"has no labels; {purpose}", hint="use one folder a class, or arrays with a key y")
        if not shape:
            what, hint = (
                "has classes as labels, and the network one number for each sample",
                "name other labels or outputs",
            )
            raise DataError(spec, what, hint=hint)
        *positions, classes = shape
        if list(labels.shape[1:]) != positions:
            what = f"has labels of shape {[*labels.shape]} for logits of shape {[len(labels), *shape]}"
            hint = "save one whole number for each row of logits, not one-hot rows, or pick others with --logits"
            raise DataError(spec, what, hint=hint)
        wrong = (labels >= classes) | ((labels < 0) & (labels != IGNORED))
        if wrong.any():
            first = tuple(int(i) for i in wrong.nonzero()[0])
            what = f"label {int(labels[first])} of sample {first[0]} is out of range: the model has {classes} outputs"
            raise DataError(spec, what, hint="mend the labels, or build the model with more outputs (--model-arg)")
        if (labels == IGNORED).all():
            raise DataError(spec, f"has no label but {IGNORED}, which counts for nothing", hint="name labelled data")
        names = inputs.samples.class_names
        if names is None and (labels.ndim > 1 or len(labels) < LABELS_A_CLASS * classes):
            return
        known = int(labels.max()) + 1 if names is None else len(names)
        if known < classes:
            on_event(Warned(f"{spec} has {known:,} classes, and the network {classes:,} outputs: some have no class"))


CLASSIFICATION = Classification()


def counted_rows(
    logits: Shaped[Tensor, "n *more"], labels: Int[Tensor, "n *positions"]
) -> tuple[Float[Tensor, "r c"], Int[Tensor, "r"]]:
    """The rows of logits whose labels are not `IGNORED`, and those labels."""
    rows, flat = logits.reshape(labels.numel(), -1), labels.flatten()
    counted = flat != IGNORED
    return rows[counted], flat[counted]

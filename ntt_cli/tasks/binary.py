"""Targets of 0 and 1: one for each sample, or one for each output."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError
from ntt_cli.runtime.events import EventSink
from ntt_cli.tasks.base import Statistics, Task
from ntt_cli.tasks.metrics import auroc, average_precision, f1
from ntt_cli.tasks.regression import check_shape, like_outputs


class MultiLabel(Task):
    """Any number of labels a sample: logits `[n, *shape]`, and targets of 0 and 1 of the same shape.

    The loss is the mean binary cross-entropy. A label is chosen if its logit is positive.
    """

    name = "multi-label"
    headline = "f1_micro"
    higher_is_better = True
    of_logits = True
    kept = frozenset({"scores", "true scores"})
    may_lack = frozenset({"mean_average_precision"})

    def loss(self, outputs: Float[Tensor, "n *shape"], targets: Shaped[Tensor, "n *more"]) -> Float[Tensor, ""]:
        return binary_cross_entropy_with_logits(outputs, like_outputs(targets, outputs))

    def statistics(self, outputs: Float[Tensor, "n *shape"], targets: Shaped[Tensor, "n *more"]) -> Statistics:
        """Of each label, how many are true, chosen, and both; and all scores if a sample has one row of them."""
        true, chosen = like_outputs(targets, outputs) == 1, outputs > 0
        found = {
            "count": self.count(targets),
            "loss": self.total(outputs, targets),
            "exact": (true == chosen).flatten(1).all(dim=1).sum(),
            "right": (true & chosen).sum(dim=0),
            "chosen": chosen.sum(dim=0),
            "true": true.sum(dim=0),
        }
        # Maps have too many scores to keep them all.
        return found | ({"scores": outputs, "true scores": true} if outputs.ndim < 3 else {})

    def results(self, statistics: Statistics) -> dict[str, float]:
        """Exact matches, F1 over all labels and its mean over labels, mean average precision, and loss."""
        n = float(statistics["count"])
        counts = statistics["right"], statistics["chosen"], statistics["true"]
        found = {
            "exact_match": float(statistics["exact"]) / n,
            "f1_micro": float(f1(*(count.sum() for count in counts))),
            "f1_macro": float(f1(*counts).mean()),
        }
        if "scores" in statistics:
            columns = zip(statistics["scores"].flatten(1).T, statistics["true scores"].flatten(1).T, strict=True)
            precisions = [value for column in columns if (value := average_precision(*column)) is not None]
            if precisions:
                found["mean_average_precision"] = sum(precisions) / len(precisions)
        return found | {"loss": float(statistics["loss"]) / n}

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse targets that are not 0 or 1, or of another shape than the outputs.

        Raises:
            DataError: if targets are missing, of another shape, or other numbers.
        """
        targets = check_shape(inputs, shape=shape, purpose=purpose)
        other = (targets != 0) & (targets != 1)
        if other.any():
            first = tuple(int(i) for i in other.nonzero()[0])
            what = f"the target of sample {first[0]} is {targets[first].item():g}, not 0 or 1"
            raise DataError(inputs.samples.spec, what, hint="mend the targets, or name another --task")


class Binary(MultiLabel):
    """One logit a sample, and targets of 0 and 1."""

    name = "binary"
    headline = "accuracy"
    has_classes = True
    may_lack = frozenset({"auroc"})

    def results(self, statistics: Statistics) -> dict[str, float]:
        """Accuracy, F1 of the samples with target 1, the area under the ROC curve if there are both, and loss."""
        found = super().results(statistics)
        area = auroc(statistics["scores"].flatten(), statistics["true scores"].flatten())
        return {
            "accuracy": found["exact_match"],
            "f1": found["f1_micro"],
            **({} if area is None else {"auroc": area}),
            "loss": found["loss"],
        }

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """As for several labels, with one output.

        Raises:
            DataError: if targets are missing, of another shape, or other numbers; or there are several outputs.
        """
        if shape not in {(), (1,)}:
            what = f"is no data for outputs of shape {list(shape)}: binary classification has one a sample"
            raise DataError(inputs.samples.spec, what, hint="name another --task: multi-label or classification")
        super().check(inputs, on_event, shape=shape, purpose=purpose)

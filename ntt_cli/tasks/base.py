"""The task of a network: its training loss, its measures of success, and its check of targets.

Pruning needs no task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.data.bundle import tensors_within
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError
from ntt_cli.networks.output_mask import OutputMask, mask_of
from ntt_cli.networks.outputs import ONLY, SelectOutputs
from ntt_cli.networks.targets import losses_in, returned_in
from ntt_cli.runtime.events import EventSink

Statistics = dict[str, Tensor]
"""What metrics are computed from. Over batches it is added up, or kept for each sample."""


class Task(ABC):
    """A kind of task. A task of one's own needs `loss` alone; without `metrics`, its loss is its metric.

    Attributes:
        name: the name of the task in reports.
        headline: the metric that chooses the best epoch.
        higher_is_better: whether the best epoch has the highest or the lowest value of that metric.
        of_logits: whether `outputs` are the logits, as `--logits` or `logits(outputs)` select them, or exactly what the
            network returns.
        has_classes: whether targets are numbers of classes, which may have names.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> class Absolute(ntt.Task):
        ...     def loss(self, outputs, targets):
        ...         return (outputs[:, 0] - targets).abs().mean()
        >>> x = torch.randn(64, 4)
        >>> tuned = ntt.finetune(torch.nn.Linear(4, 1), (x, x.sum(1)), epochs=1, task=Absolute())
        >>> tuned.report.task, tuned.report.metric
        ('own', 'loss')
    """

    name: str = "own"
    headline: str = "loss"
    higher_is_better: bool = False
    of_logits: bool = False
    has_classes: bool = False
    kept: frozenset[str] = frozenset()
    """Names of statistics that are kept for each sample, not added up."""
    may_lack: frozenset[str] = frozenset()
    """Names of metrics that some data do not define."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Float[Tensor, ""]:
        """The loss that training minimises: the mean over a batch."""

    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, float | Tensor]:
        """The metrics of a batch. They are averaged over samples; `headline` names one of them, or `loss`."""
        return {}

    def count(self, targets: Any) -> Shaped[Tensor, ""]:
        """The number of targets that `loss` is the mean over: by default of samples."""
        return torch.tensor(batch_size(targets), device=next(tensors_within(targets)).device)

    def total(self, outputs: Any, targets: Any) -> Float[Tensor, ""]:
        """The loss summed over the targets that `count` counts."""
        return self.loss(losses_in(outputs), targets) * self.count(targets)

    def statistics(self, outputs: Any, targets: Any) -> Statistics:
        """What the metrics of a batch are computed from: with names `count` and `loss`, a sum."""
        n = self.count(targets)
        found = {
            name: torch.as_tensor(value) * n for name, value in self.metrics(returned_in(outputs), targets).items()
        }
        return {"count": n, "loss": self.total(outputs, targets)} | found

    def results(self, statistics: Statistics) -> dict[str, float]:
        """The metrics, from statistics over all batches. One that is not defined is left out."""
        n = float(statistics["count"])
        return {name: float(value) / n for name, value in statistics.items() if name != "count"} if n else {}

    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse data without targets, or with targets that the network has no output for.

        Args:
            inputs: the data.
            on_event: receives warnings.
            shape: of one sample's outputs.
            purpose: the use of the targets, for messages.

        Raises:
            DataError: if targets are missing or do not fit.
        """
        require_targets(inputs, purpose=purpose)

    def outputs_of(self, returned: Any, select_outputs: SelectOutputs) -> Any:
        """What the task takes of the network's return value."""
        return select_outputs(returned) if self.of_logits else returned

    def counted(self, outputs: Any, targets: Any, x: Any, output_mask: OutputMask | None) -> tuple[Any, Any]:
        """The outputs and targets of a batch `x` that count, by `output_mask(batch)` or an input `attention_mask`.

        A task that takes exactly what the network returns sees to that itself.
        """
        if not self.of_logits or not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            return outputs, targets
        mask = mask_of(output_mask, x, ONLY, outputs)
        return (outputs, targets) if mask is None else self.select(mask, outputs, targets)

    def select(self, mask: Tensor, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of outputs and targets where the mask, which can be broadcast to the outputs, is `True`."""
        axes = max((axis + 1 for axis, size in enumerate(mask.shape) if size > 1), default=1)
        chosen = mask.reshape(mask.shape[:axes])
        return outputs[chosen], targets.reshape(outputs.shape)[chosen]


class Measurement:
    """The statistics of a task over batches. Sums are in double precision."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sums: Statistics = {}
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, outputs: Any, targets: Any) -> None:
        """Take in a batch."""
        for name, value in self.task.statistics(outputs, targets).items():
            if name in self.task.kept:
                self._parts.setdefault(name, []).append(value.detach())
            else:
                added = value.detach().double() if value.device.type != "mps" else value.detach().cpu().double()
                self.sums[name] = self.sums[name] + added if name in self.sums else added

    @property
    def statistics(self) -> Statistics:
        return self.sums | {name: torch.cat(parts) for name, parts in self._parts.items()}

    @property
    def count(self) -> float:
        return float(self.sums["count"])

    @property
    def loss(self) -> float:
        """The sum of the losses."""
        return float(self.sums["loss"])

    def results(self) -> dict[str, float]:
        """The metrics; empty if no target counts."""
        return self.task.results(self.statistics) if self.count else {}


def require_targets(inputs: Inputs, *, purpose: str) -> Batch:
    """The data's targets.

    Raises:
        DataError: if it has none.
    """
    labels = inputs.samples.labels
    if labels is None:
        hint = "use one folder a class, or arrays with a key y"
        raise DataError(inputs.samples.spec, f"has no labels; {purpose}", hint=hint)
    return labels

"""The task of a network: its training loss, its measure of success, and its check of labels.

Pruning needs no task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ntt_cli.data.inputs import Inputs
from ntt_cli.runtime.events import EventSink

Reduction = Literal["mean", "sum"]


class Task(ABC):
    """A kind of task.

    Attributes:
        name: the name of the task in options.
    """

    name: ClassVar[str]

    @abstractmethod
    def loss(
        self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *positions"], reduction: Reduction = "mean"
    ) -> Float[Tensor, ""]:
        """The loss that training minimises, over all targets that count."""

    @abstractmethod
    def count(self, targets: Shaped[Tensor, "n *positions"]) -> Int[Tensor, ""]:
        """The number of targets that count."""

    @abstractmethod
    def correct(self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *positions"]) -> int:
        """The number of counting targets that the outputs get right. The best epoch has the most."""

    @abstractmethod
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

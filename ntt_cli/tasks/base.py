"""What a network is for: the loss that it is trained with, what counts as right, and which labels it takes.

Pruning needs none of it.
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
        name: as options name it.
    """

    name: ClassVar[str]

    @abstractmethod
    def loss(
        self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *positions"], reduction: Reduction = "mean"
    ) -> Float[Tensor, ""]:
        """What training minimises, over all targets that count."""

    @abstractmethod
    def count(self, targets: Shaped[Tensor, "n *positions"]) -> Int[Tensor, ""]:
        """How many targets count."""

    @abstractmethod
    def correct(self, outputs: Shaped[Tensor, "n *more"], targets: Shaped[Tensor, "n *positions"]) -> int:
        """How many of the targets that count the outputs get right; the best epoch is that of the most."""

    @abstractmethod
    def check(self, inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
        """Refuse data without targets, or with targets that the network has no output for.

        Args:
            inputs: the data.
            on_event: told what is worth a warning.
            shape: of one sample's outputs.
            purpose: what the targets are for.

        Raises:
            DataError: if targets are missing or do not fit.
        """

"""A traced network with what is known about it, and the outputs that a file of it must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from ntt_cli.data.batch import Batch
from ntt_cli.errors import ModelError

CLOSE = 1e-4
"""The largest difference that rounding explains, as a fraction of the largest output if that is above 1."""


@dataclass(frozen=True, eq=False)
class Program:
    """A network, traced.

    Attributes:
        traced: the program, whose inputs and outputs have the names in `about`.
        axes: names of free axes, by torch's symbols.
        about: what its file says about it.
        batches: batches with the network's own outputs for them.
        where: the network, as the user named it.
    """

    traced: ExportedProgram
    axes: dict[str, str]
    about: dict[str, Any]
    batches: list[tuple[Batch, list[Tensor]]]
    where: str

    def difference(self, run: Callable[[Batch], list[Tensor]]) -> float:
        """The largest absolute difference between the network's outputs and those of a written program.

        Raises:
            ModelError: if it is more than rounding, or the program fails.
        """
        largest = 0.0
        for x, outputs in self.batches:
            for expected, found in zip(outputs, run(x), strict=True):
                same = found.shape == expected.shape
                apart = float((found.double() - expected.double()).abs().max()) if same else float("inf")
                if not apart <= CLOSE * max(1.0, float(expected.abs().max())):
                    what = f"a program of it gives other outputs (they differ by {apart:.2g}), so that none is written"
                    hint = "mend what is random in evaluation mode, or kept in Python between two passes"
                    raise ModelError(self.where, what, hint=hint)
                largest = max(largest, apart)
        return largest

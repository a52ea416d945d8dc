"""When a run looks at its losses, and what it does about one that is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntt_cli.runs.checkpointer import RunCheckpointer

CHECK_EVERY = 20
"""Steps between two looks on an accelerator: at each, host and device wait for each other."""


def check_losses(losses: Sequence[Tensor], step: int, checkpointer: RunCheckpointer, *, last: bool, whose: str) -> None:
    """Stop the run at the first of the losses of the last steps that is not finite.

    On a CPU, where a look costs nothing, that is at each step; on an accelerator at each 20th, for all of them, and at
    the last.

    Args:
        losses: scalars, one a step.
        step: that of the last of them, from 1.
        checkpointer: of the run's state.
        last: there is no step behind it to look at these.
        whose: in words.

    Raises:
        DivergedError: if there is one; it names its step.
    """
    if losses[-1].device.type != "cpu" and step % CHECK_EVERY and not last:
        return
    finite = torch.stack(list(losses)).isfinite().tolist()
    if not all(finite):
        first = step - len(finite) + 1 + finite.index(False)
        raise checkpointer.diverged(f"step {first}", f"the {whose} loss is no longer finite")

"""Finite checks: check the losses of a run, and stop it at one that is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntt_cli.runs.checkpointer import RunCheckpointer

CHECK_EVERY = 20
"""Steps between two finite checks on an accelerator; each check makes host and device wait for each other."""


def check_losses(losses: Sequence[Tensor], step: int, checkpointer: RunCheckpointer, *, last: bool, whose: str) -> None:
    """Stop the run at the first loss that is not finite; the last of them is that of `step`, from 1.

    On a CPU, where a check costs nothing, losses are checked at each step. On an accelerator they are checked at each
    20th step, all together, and at the last step.

    Raises:
        DivergedError: if a loss is not finite; it names the step.
    """
    if losses[-1].device.type != "cpu" and step % CHECK_EVERY and not last:
        return
    finite = torch.stack(list(losses)).isfinite().tolist()
    if not all(finite):
        first = step - len(finite) + 1 + finite.index(False)
        raise checkpointer.diverged(f"step {first}", f"the {whose} loss is no longer finite")

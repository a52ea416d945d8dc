from __future__ import annotations

import pytest
import torch

from ntt_cli.errors import DivergedError
from ntt_cli.runs.checkpointer import no_checkpoints
from ntt_cli.runs.finite_checks import check_losses


def losses(*values: float, device: str = "cpu") -> list[torch.Tensor]:
    return [torch.tensor(value, device=device) for value in values]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("step", "last"), [(7, False), (7, True), (20, False)])
def test_the_first_bad_step_is_named(bad: float, step: int, last: bool) -> None:
    check_losses(losses(1.0, 2.0, 3.0, 1e38), step, no_checkpoints(), last=last, whose="training")
    with pytest.raises(DivergedError) as caught:
        check_losses(losses(1.0, bad, 3.0, bad), step, no_checkpoints(), last=last, whose="training")
    assert str(caught.value) == f"step {step - 2}: the training loss is no longer finite"
    assert caught.value.hint == "try a smaller --learning-rate; nothing was written"


def test_an_accelerator_is_asked_at_each_20th_step_and_the_last() -> None:
    """Of a device without memory nothing can be asked."""
    for step in range(1, 20):
        check_losses(losses(1.0, device="meta"), step, no_checkpoints(), last=False, whose="training")
    for step, last in ((20, False), (7, True)):
        with pytest.raises(RuntimeError, match="meta"):
            check_losses(losses(1.0, device="meta"), step, no_checkpoints(), last=last, whose="training")

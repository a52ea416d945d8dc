from __future__ import annotations

import torch

from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.progress import History


def test_gathered_losses_are_the_same_and_few() -> None:
    history, whole = History(), History()
    for step in range(7):
        parts = [torch.tensor(float(10 * step + part)) for part in range(5)]
        for each in (history, whole):
            each.losses.append(TransferLoss(*parts))
        if step % 3 == 2:
            history.gather()
            assert not history.losses
    assert {name: values.tolist() for name, values in history.loss_tensors().items()} == {
        name: values.tolist() for name, values in whole.loss_tensors().items()
    }

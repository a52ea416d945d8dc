"""The problem that a transfer solves: which network, on which inputs, how sparse, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntt_cli.data.inputs import Inputs
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.networks.flops import uses_weights_seldom
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup
from ntt_cli.tensors import Masks


@dataclass(frozen=True)
class Transfer:
    """From the teacher's weights to a sparse network of the same kernel and outputs.

    Attributes:
        teacher: calibrated, on the inputs' device.
        inputs: unlabelled.
        names: the prunable weights.
        outputs: number of outputs, `c`.
        settings: of the transfer, every default settled.
        fixed_masks: masks that another method chose, under which only the weights move; `None` to learn the masks.
    """

    teacher: FunctionalModel
    inputs: Inputs
    names: tuple[str, ...]
    outputs: int
    settings: TransferSettings
    fixed_masks: Masks | None = None

    def execution(self, group: ProcessGroup = SINGLE) -> Execution:
        """How steps are carried out: the graph is kept where the network uses each weight seldom."""
        one = self.inputs.batch(torch.arange(1))
        return Execution(group=group, keep_graph=uses_weights_seldom(self.teacher.bind(), self.teacher.params, one))

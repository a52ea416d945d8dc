"""What a transfer is given: the teacher, the unlabelled inputs, the prunable weights and the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ntt_cli.config import LEAVE_OUT
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import UsageError
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.networks.flops import uses_weights_seldom
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.hidden import with_hidden_heads
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup
from ntt_cli.tensors import Masks, Params


@dataclass(frozen=True)
class Transfer:
    """The problem that a transfer solves: find a sparse student with the teacher's kernel and outputs.

    Attributes:
        teacher: the dense network on the inputs' device; its batch-norm statistics are those of the inputs.
        inputs: the unlabelled samples.
        names: of the prunable weights.
        outputs: the number of outputs, `c`.
        settings: every option of the transfer, with its default filled in.
        fixed_masks: masks that another method chose; `None`: the transfer learns the masks.
        start: the student's parameters before the first step; `None`: the teacher's.
    """

    teacher: FunctionalModel
    inputs: Inputs
    names: tuple[str, ...]
    outputs: int
    settings: TransferSettings
    fixed_masks: Masks | None = None
    start: Params | None = None

    def with_hidden_heads(self) -> Transfer:
        """The transfer in which the student matches what the blocks of its teacher return, too, with `settings.hidden`.

        Raises:
            UsageError: if there is nothing hidden to match, or no way to compare it.
        """
        settings, samples = self.settings, self.inputs.samples
        if not settings.hidden:
            return self
        if settings.channels is not None:
            raise UsageError("--hidden", "compares what blocks return, of which channels would be gone", hint=LEAVE_OUT)
        if samples.bundled or self.teacher.output_mask is not None:
            why = (
                f"{samples.spec} has samples of unequal shapes"
                if samples.bundled
                else "output_mask is of outputs alone"
            )
            raise UsageError("--hidden", f"cannot tell which hidden values count: {why}", hint=LEAVE_OUT)
        teacher = with_hidden_heads(self.teacher, self.names, self.inputs.batch(torch.arange(min(2, len(self.inputs)))))
        if teacher is self.teacher:
            raise UsageError(
                "--hidden", "has nothing to match: no block before the outputs is called once", hint=LEAVE_OUT
            )
        assert teacher.heads is not None
        sizes, own = teacher.heads.sizes, teacher.without_hidden_heads.heads
        assert own is not None
        objective = replace(settings.objective, heads=sizes, hidden=len(sizes) - len(own.sizes))
        return replace(self, teacher=teacher, outputs=sum(sizes), settings=replace(settings, objective=objective))

    def execution(self, group: ProcessGroup = SINGLE) -> Execution:
        """How steps are carried out. For one sample, the network runs once.

        The graph of a batch's second half is kept between two passes if the network uses each weight seldom, as
        perceptrons do: there activations need little memory. Networks with many convolutions compute it twice.
        """
        one = self.inputs.batch(torch.arange(1))
        return Execution(group=group, keep_graph=uses_weights_seldom(self.teacher.bind(), self.teacher.params, one))

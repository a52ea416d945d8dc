"""NTT as a method of `ntt prune`: from what any method is given (`methods/base.py`) to a transfer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ntt_cli.config import NTTOptions, method_class
from ntt_cli.masks.allocation import Allocate
from ntt_cli.masks.schedule import Schedule
from ntt_cli.methods.base import Method, MethodContext, Pruned, register_method
from ntt_cli.methods.ntt.loop import run_transfer
from ntt_cli.methods.ntt.score import Score
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.runs.threads import threads_for


class TransferMethod(Method):
    """A method whose steps are those of a transfer: NTT, and others that match the teacher in the same loop."""

    moves_weights = True

    @classmethod
    def chooses_by_scores(cls) -> bool:
        """Its steps choose masks by scores, unless it does something else with them."""
        return cls.masks is Method.masks and cls.prune is TransferMethod.prune

    def transfer_of(self, context: MethodContext) -> Transfer:
        """The problem that the transfer solves."""
        raise NotImplementedError

    def prune(self, context: MethodContext) -> Pruned:
        """The student after its last step. Methods that use its masks in another way replace this one."""
        return self.transfer(context)

    def transfer(self, context: MethodContext) -> Pruned:
        """The student after its last step, with masks that it learnt or that were fixed before.

        Raises:
            DivergedError: if a number is no longer finite.
            Interrupted: if the run is to end.
        """
        assert context.inputs is not None
        with threads_for(context.teacher, context.inputs):
            return run_transfer(self.transfer_of(context).with_hidden_heads(), context.run)


@register_method("ntt")
class NTT(TransferMethod):
    """Neural Tangent Transfer: it learns weights and masks with which kernel and outputs stay the teacher's.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> ntt.prune(net, torch.randn(32, 4), sparsity=0.5, method=ntt.NTT, steps=5, kernel_weight=1).report.steps
        5
    """

    allocation = None  # by the network: see `settings.py`
    reads = frozenset({"batch_size", "checkpoint_every", *NTTOptions.model_fields})

    def __init__(
        self,
        *,
        score: str | Score | None = None,
        allocation: str | Allocate | None = None,
        schedule: str | Schedule | None = None,
        **options: Any,
    ) -> None:
        """NTT with exchanged parts and with options.

        Args:
            score: how weights are scored: `saliency`, `magnitude`, or a `Score`.
            allocation: how many weights each layer keeps: `erk`, `layerwise`, `global`, or
                `f(scores, density=…, slices=…)`.
            schedule: how the density falls: `cubic`, `constant`, or `f(step, steps=…, density=…)`.
            **options: other options of NTT, such as `steps=500`.
        """
        parts = {"score": score, "allocation": allocation, "schedule": schedule}
        self.options = options | {name: part for name, part in parts.items() if isinstance(part, str)}
        self.parts = {name: part for name, part in parts.items() if part is not None and not isinstance(part, str)}

    def transfer_of(self, context: MethodContext) -> Transfer:
        assert context.inputs is not None
        settings = replace(context.settings, **self.parts)
        fixed = None if settings.mask == "learned" else method_class(settings.mask)().masks(context)
        return Transfer(context.teacher, context.inputs, context.names, context.outputs, settings, fixed)

"""NTT as a method of `ntt prune`."""

from __future__ import annotations

from ntt_cli.config import NTTOptions, method_class
from ntt_cli.methods.base import Method, MethodContext, Pruned, register_method
from ntt_cli.methods.ntt.loop import run_transfer
from ntt_cli.runs.threads import threads_for
from ntt_cli.tensors import Masks


@register_method("ntt")
class NTT(Method):
    """Neural Tangent Transfer: weights and masks are learnt, so that kernel and outputs stay the teacher's.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> ntt.prune(net, torch.randn(32, 4), sparsity=0.5, method=ntt.NTT, steps=5, kernel_weight=1).report.steps
        5
    """

    allocation = None
    moves_weights = True
    reads = frozenset({"batch_size", *NTTOptions.model_fields})

    def prune(self, context: MethodContext) -> Pruned:
        """The student after its last step."""
        return self.transfer(context)

    def transfer(self, context: MethodContext) -> Pruned:
        """The student after its last step, with masks that it learnt or that `--mask` fixed.

        Raises:
            DivergedError: if a number is no longer finite.
            Interrupted: if the run is to end.
        """
        assert context.inputs is not None
        run = context.run
        with threads_for(context.teacher, context.inputs):
            moved = run_transfer(
                context.teacher,
                context.inputs,
                context.names,
                outputs=context.outputs,
                settings=context.settings,
                fixed_masks=fixed_masks(context),
                micro_batching=run.micro_batching,
                checkpointer=run.checkpointer,
                group=run.group,
                on_event=run.on_event,
            )
        return Pruned(moved.params, moved.buffers, moved.masks, moved.history)


def fixed_masks(context: MethodContext) -> Masks | None:
    """The masks of the method that `--mask` names; `None` to learn them."""
    mask = context.settings.mask
    return None if mask == "learned" else method_class(mask)().masks(context)

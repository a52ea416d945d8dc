"""`ntt_cli.prune`."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from typing import Any, Literal, overload

from ntt_cli.api.calls import Progress, apart, configured, require_output
from ntt_cli.api.methods import name_of
from ntt_cli.api.network import Model, PruneResult, own_weights, result_of, sources_of
from ntt_cli.api.words import told_in_python
from ntt_cli.config import PruneConfig
from ntt_cli.errors import UsageError
from ntt_cli.methods.base import Method
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.pruning import prune as pruning
from ntt_cli.results import PrunePlan
from ntt_cli.runtime.signals import Stop


@overload
def prune(
    model: Model,
    data: object = None,
    *,
    sparsity: float | None = None,
    method: str | Method | type[Method] = "ntt",
    trained: bool = True,
    output: str | PathLike[str] | None = None,
    output_mask: OutputMask | None = None,
    progress: Progress = False,
    stop: Stop | None = None,
    dry_run: Literal[False] = False,
    **options: Any,
) -> PruneResult: ...


@overload
def prune(
    model: Model, data: object = None, *, sparsity: float | None = None, dry_run: Literal[True], **options: Any
) -> PrunePlan: ...


def prune(
    model: Model,
    data: object = None,
    *,
    sparsity: float | None = None,
    method: str | Method | type[Method] = "ntt",
    trained: bool = True,
    output: str | PathLike[str] | None = None,
    output_mask: OutputMask | None = None,
    progress: Progress = False,
    stop: Stop | None = None,
    dry_run: bool = False,
    **options: Any,
) -> PruneResult | PrunePlan:
    """Make a network sparse, without labels: a dense teacher becomes a sparse student.

    The network that is handed over is left as it is, as are the global random state, the default dtype, the number of
    threads and signal handlers.

    Args:
        model: a `torch.nn.Module`, or a name as on the command line (`model.py`, `torchvision:resnet18`).
        data: inputs, float32 `[n, ...]` as the network takes them, uint8 images `[n, c, h, w]`, or int64 tokens
            `[n, t]`: a tensor, a `Dataset`, a `DataLoader` (its samples are drawn anew), or a name as on the command
            line. Several inputs are a dict by the names of `forward`'s arguments, or `((x1, x2), None)`. Labels are not
            looked at, but by the methods that need them.
        sparsity: fraction of the prunable weights to remove, from 0 to below 1; it has no default. In its place,
            `pattern="2:4"` keeps two of every four consecutive weights of the input axis; with `structure="channels"`,
            `target_flops` may take its place.
        method: the name of a method, its class, or one made with options of its own.
        trained: the weights of a network object are trained. NTT matches outputs alone then; of other weights the
            kernel, too.
        output: write the checkpoint here, and a report beside it; `None` writes nothing.
        output_mask: a function of what the network takes, which returns a bool tensor of the outputs' first axes, or a
            dict of such by output: `False` where outputs do not count. Default: by an input `attention_mask`.
        progress: `True` writes lines to stderr now and then; a function is given each event.
        stop: asks for the end from outside.
        dry_run: do nothing, and return what would be done, with its time and memory.
        **options: all other options of `ntt prune`, with underscores: `steps=500`, `exclude=("conv1.*", "fc.*")`,
            `layer_density={"fc.weight": 0.2}`, `mean=(0.5, 0.4, 0.4)`.

    Returns:
        the sparse network (`.model`, `.masks`, `.report`, `.save(path)`); a plan, if asked for a dry run.

    Raises:
        UsageError: if an option is wrong, or nothing reads it.
        NttError: if anything else is unusable, the numbers diverge or the output cannot be written.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> result = ntt.prune(net, torch.randn(32, 4), sparsity=0.5, steps=5)
        >>> result.report.kept, sorted(result.masks), type(result.model)
        (28, ['0.weight', '2.weight'], <class 'torch.nn.modules.container.Sequential'>)
    """
    require_output(output, options)
    named, sources = sources_of(model, data, trained=trained)
    sources = replace(sources, output_mask=output_mask)
    name, made = _method_of(method)
    options["weights"] = own_weights(model, "weights", options)
    values = named | (dict(made.options) if made else {}) | options | {"sparsity": sparsity, "method": name}
    config = configured(PruneConfig, values).model_copy(update={"output": None if output is None else fspath(output)})
    with apart(progress, sources) as (on_event, warnings):
        if dry_run:
            return pruning.plan(config, on_event, sources, made)
        outcome = pruning.prune(config, on_event, stop, sources, made)
    return result_of(PruneResult, outcome, warnings, sources, values)


@told_in_python()
def _method_of(method: str | Method | type[Method]) -> tuple[str, Method | None]:
    """The name of a method, and the method where it is made already."""
    if isinstance(method, str):
        return method, None
    kind = method if isinstance(method, type) else type(method)
    if not issubclass(kind, Method):
        raise UsageError("method", f"is a value of type {kind.__name__}", hint="give a name, or a subclass of Method")
    return name_of(kind), None if isinstance(method, type) else method

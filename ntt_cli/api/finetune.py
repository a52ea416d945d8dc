"""`ntt_cli.finetune`."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from ntt_cli.api.calls import Progress, apart, configured, require_output
from ntt_cli.api.network import FinetuneResult, Model, own_weights, result_of, sources_of
from ntt_cli.config import FinetuneConfig
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.runtime.signals import Stop
from ntt_cli.tasks.base import Task
from ntt_cli.training import finetune as training


def finetune(
    model: Model,
    data: object = None,
    *,
    output: str | PathLike[str] | None = None,
    task: str | Task = "auto",
    output_mask: OutputMask | None = None,
    progress: Progress = False,
    stop: Stop | None = None,
    **options: Any,
) -> FinetuneResult:
    """Train a network on labels, with its zeros held.

    The network that is handed over is left as it is, as are the global random state, the default dtype, the number of
    threads and signal handlers.

    Args:
        model: what `prune` or `load` returned; a `torch.nn.Module`, which is dense; or a name as on the command line.
            A file of weights for the latter two is `checkpoint="sparse.safetensors"`.
        data: inputs and labels: a pair of tensors `[n, ...]` and int64 `[n]`, a `Dataset` or a `DataLoader` of such
            pairs (its samples are drawn anew), or a name as on the command line.
        output: write the checkpoint here, and a report beside it; `None` writes nothing.
        task: what the labels are for, as `--task` says, or a task of one's own.
        output_mask: a function of what the network takes, which returns a bool tensor of the outputs' first axes, or a
            dict of such by output: `False` where outputs do not count. Default: by an input `attention_mask`.
        progress: `True` writes lines to stderr now and then; a function is given each event.
        stop: asks for the end from outside.
        **options: all other options of `ntt finetune`, with underscores: `epochs=30`, `optimiser="sgd"`.

    Returns:
        the network after the best epoch (`.model`, `.masks`, `.report`, `.save(path)`).

    Raises:
        UsageError: if an option is wrong, or nothing reads it.
        NttError: if anything else is unusable, the numbers diverge or the output cannot be written.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> x, y = torch.randn(64, 4), torch.arange(64) % 3
        >>> sparse = ntt.prune(net, x, sparsity=0.5, method="magnitude")
        >>> tuned = ntt.finetune(sparse, (x, y), epochs=1)
        >>> bool((tuned.model[0].weight[~tuned.masks["0.weight"]] == 0).all())
        True
    """
    require_output(output, options)
    named, sources = sources_of(model, data)
    named_task, own_task = (task, None) if isinstance(task, str) else ("own", task)
    sources = replace(sources, task=own_task, output_mask=output_mask)
    options["checkpoint"] = own_weights(model, "checkpoint", options)
    values = named | options | {"task": named_task} | {"output": None if output is None else fspath(output)}
    config = configured(FinetuneConfig, values)
    with apart(progress, sources) as (on_event, warnings):
        outcome = training.finetune(config, on_event, stop, sources)
    return result_of(FinetuneResult, outcome, warnings, sources, values)

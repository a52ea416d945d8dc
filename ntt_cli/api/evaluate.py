"""`ntt_cli.evaluate`."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any

from torch import nn

from ntt_cli.api.calls import Progress, apart, configured
from ntt_cli.api.network import Model, SparseNetwork, own_weights, sources_of, teacher_of
from ntt_cli.config import EvaluateConfig
from ntt_cli.evaluation import evaluate as evaluation
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.results import EvaluateReport
from ntt_cli.tasks.base import Task


def evaluate(
    model: Model,
    data: object = None,
    *,
    teacher: str | PathLike[str] | nn.Module | SparseNetwork | None = None,
    task: str | Task = "auto",
    output_mask: OutputMask | None = None,
    progress: Progress = False,
    **options: Any,
) -> EvaluateReport:
    """Measure accuracy where there are labels, agreement with a teacher where there is one, FLOPs and size.

    Args:
        model: what `prune`, `finetune` or `load` returned; a `torch.nn.Module`, which is dense; or a name as on the
            command line. A file of weights for the latter two is `checkpoint="tuned.safetensors"`.
        data: inputs with labels, or without them if there is a teacher; as `finetune` takes them.
        teacher: the network to compare with, of the same architecture: an object, or a file of its weights.
        task: what the labels are for, as `--task` says, or a task of one's own.
        output_mask: a function of what the network takes, which returns a bool tensor of the outputs' first axes, or a
            dict of such by output: `False` where outputs do not count. Default: by an input `attention_mask`.
        progress: `True` writes lines to stderr now and then; a function is given each event.
        **options: all other options of `ntt evaluate`, with underscores: `kernels=True`, `min_accuracy=0.97`.

    Returns:
        the fields of `ntt evaluate --json`. Accuracies are fractions, FLOPs of one sample, sizes in bytes.

    Raises:
        UsageError: if an option is wrong, or nothing reads it.
        NttError: if anything else is unusable.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> report = ntt.evaluate(net, torch.randn(16, 4), teacher=net)
        >>> report.agreement.top1_agreement, report.flops_dense
        (1.0, 112)
    """
    named, sources = sources_of(model, data)
    named_task, own_task = (task, None) if isinstance(task, str) else ("own", task)
    sources = replace(sources, task=own_task, output_mask=output_mask)
    options["checkpoint"] = own_weights(model, "checkpoint", options, required=True)
    named_teacher, values = teacher_of(teacher)
    sources = replace(sources, teacher=values)
    config = configured(EvaluateConfig, named | options | {"task": named_task} | {"teacher": named_teacher})
    with apart(progress, sources) as (on_event, _):
        return evaluation.run(config, on_event, sources=sources)

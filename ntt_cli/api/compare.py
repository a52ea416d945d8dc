"""`ntt_cli.compare`."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from typing import Any, Literal, overload

from ntt_cli.api.calls import Progress, apart, configured
from ntt_cli.api.methods import name_of
from ntt_cli.api.network import Model, data_of, sources_of
from ntt_cli.comparison import compare as comparison
from ntt_cli.comparison.results import ComparePlan, CompareReport
from ntt_cli.config import CompareConfig, built_in_methods
from ntt_cli.errors import DataError
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.tasks.base import Task


@overload
def compare(
    model: Model,
    data: object = None,
    *,
    test_data: object = None,
    task: str | Task = "auto",
    output_mask: OutputMask | None = None,
    output: str | PathLike[str] = "comparison",
    progress: Progress = False,
    plan: Literal[False] = False,
    **options: Any,
) -> CompareReport: ...


@overload
def compare(model: Model, data: object = None, *, plan: Literal[True], **options: Any) -> ComparePlan: ...


def compare(
    model: Model,
    data: object = None,
    *,
    test_data: object = None,
    task: str | Task = "auto",
    output_mask: OutputMask | None = None,
    output: str | PathLike[str] = "comparison",
    progress: Progress = False,
    plan: bool = False,
    **options: Any,
) -> CompareReport | ComparePlan:
    """Prune by several methods, at several sparsities, under several seeds, and fine-tune and test all alike.

    Networks and data that are objects, and methods that were registered, cannot be sent to another process: their
    trials run in this one, one after the other.

    Args:
        model: a `torch.nn.Module`, what another function here returned, or a name as on the command line.
        data: inputs and labels to prune and train on, as `finetune` takes them.
        test_data: inputs and labels to test on, in the same forms.
        task: what the labels are for, as `--task` says, or a task of one's own.
        output_mask: a function of what the network takes, which returns a bool tensor of the outputs' first axes, or a
            dict of such by output: `False` where outputs do not count. Default: by an input `attention_mask`.
        output: folder of the results; what is there already is not done again.
        progress: `True` writes lines to stderr now and then; a function is given each event.
        plan: train nothing, and return the trials with a time for those that are left.
        **options: all other options of `ntt compare`, with underscores: `methods=("ntt", Mine)`, names or classes;
            `sparsities=(0.9, 0.95)`, `seeds=(1, 2, 3)`, `epochs=10`.

    Returns:
        the results of all trials, and a row of means over seeds for each method and sparsity; or a plan.

    Raises:
        UsageError: if an option is wrong, or nothing reads it.
        DataError: if there is no labelled data to train or to test on.
        NttError: if the network, the data or the folder is unusable. A trial that fails ends no others: `.failed`.

    Example:
        >>> import tempfile, torch, ntt_cli as ntt
        >>> x, y = torch.randn(80, 4), torch.arange(80) % 3
        >>> wanted = {"methods": ("magnitude", "random"), "sparsities": 0.5, "seeds": (1, 2), "epochs": 1}
        >>> net, output = torch.nn.Linear(4, 3), tempfile.mkdtemp() + "/comparison"
        >>> report = ntt.compare(net, (x[:64], y[:64]), test_data=(x[64:], y[64:]), output=output, **wanted)
        >>> [(row.method, row.sparsity, row.seeds) for row in report.rows]
        [('magnitude', 0.5, 2), ('random', 0.5, 2)]
    """
    named, sources = sources_of(model, data)
    test_named, test_objects = data_of(test_data)
    named_task, own_task = (task, None) if isinstance(task, str) else ("own", task)
    values = named | options | {"task": named_task, "output": fspath(output)}
    if isinstance(methods := options.get("methods"), list | tuple):
        values["methods"] = [name_of(method) if isinstance(method, type) else method for method in methods]
    if (test_name := test_named.get("data")) is not None:
        values["test_data"] = test_name
    config = configured(CompareConfig, values)
    sources = replace(sources, test_data=test_objects, task=own_task, output_mask=output_mask)
    here = sources.in_memory or any(entry.partition(":")[0] not in built_in_methods() for entry in config.methods)
    with apart(progress, sources) as (on_event, _):
        if sources.data is not None and test_objects is None and config.test_data is None:
            hint = "give inputs and labels to test on as test_data"
            raise DataError("test_data", "is missing, and data that is an object has no test part", hint=hint)
        if plan:
            return comparison.plan(config, on_event, sources)
        return comparison.run(config, on_event, in_process=here, sources=sources)

"""`ntt_cli.bench`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from torch import nn

from ntt_cli.api.calls import Progress, apart, configured
from ntt_cli.api.network import SparseNetwork, sources_of
from ntt_cli.api.words import told_in_python
from ntt_cli.config import BenchConfig
from ntt_cli.errors import UsageError
from ntt_cli.runs.sources import OWN
from ntt_cli.timing import bench as benching
from ntt_cli.timing.results import BenchReport


def bench(
    checkpoint: str | PathLike[str] | SparseNetwork,
    exported: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    *,
    model: str | PathLike[str] | nn.Module | None = None,
    data: object = None,
    progress: Progress = False,
    **options: Any,
) -> BenchReport:
    """Measure how large a sparse network is, and how fast, in each form that it was exported to, beside the dense one.

    Each form is timed in turns with the dense network in the same runtime: a `.onnx` file in onnxruntime, a `.pt2`
    program as torch.export runs it, everything else as a module of PyTorch. A form whose outputs are not the
    checkpoint's is warned of.

    Args:
        checkpoint: a file of weights, as `load` takes it, or what `prune`, `finetune` or `load` returned.
        exported: a file that `export` wrote, or several. Programs are run: name only files that you trust.
        model: the network that the weights belong to; an object, or a name as on the command line. What `prune`,
            `finetune` or `load` returned knows it.
        data: inputs that go through the network, as `prune` takes them; times do not depend on their values.
        progress: `True` writes lines to stderr now and then; a function is given each event.
        **options: all other options of `ntt bench`, with underscores: `batch_size=64`, `seconds=3`, `threads=1`.

    Returns:
        bytes on disk, zipped and packed, FLOPs, and for each form and batch size all times in seconds, with the median
        of their ratios and its 95% interval.

    Raises:
        UsageError: if an option is wrong, or onnxruntime is missing.
        CheckpointError: if a file cannot be read, is damaged, or is of another network.
        ModelError: if there is no such network, or it cannot be exported to compare with.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net = torch.nn.Linear(64, 32)
        >>> sparse = ntt.prune(net, sparsity=0.9, method="magnitude")
        >>> report = ntt.bench(sparse, data=torch.randn(8, 64), seconds=0.01)
        >>> report.flops_dense, report.flops_sparse, [each.samples for each in report.comparisons]
        (4096, 410, [1, 64])
    """
    network = _network(checkpoint, model)
    named, sources = sources_of(network, data)
    files = [exported] if isinstance(exported, str | PathLike) else list(exported)
    own = {"checkpoint": OWN if isinstance(checkpoint, SparseNetwork) else fspath(checkpoint)}
    config = configured(BenchConfig, named | options | own | {"exported": tuple(fspath(file) for file in files)})
    with apart(progress, sources) as (on_event, _):
        return benching.run(config, on_event, sources=sources)


@told_in_python(objects=True)
def _network(
    checkpoint: str | PathLike[str] | SparseNetwork, model: str | PathLike[str] | nn.Module | None
) -> str | PathLike[str] | nn.Module | SparseNetwork:
    if isinstance(checkpoint, SparseNetwork):
        if model is not None:
            raise UsageError("model", "does nothing: the checkpoint knows its network", hint="leave it out")
        return checkpoint
    if model is None:
        hint = "give the torch.nn.Module that the weights belong to, or its name as on the command line"
        raise UsageError("model", "is missing", hint=hint)
    return model

"""`ntt_cli.load`."""

from __future__ import annotations

from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ntt_cli.api.calls import Progress, apart, configured
from ntt_cli.api.network import SparseNetwork, network_of
from ntt_cli.config import ModelOptions, WeightsOptions
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.networks.functional import saved_tensors
from ntt_cli.networks.loading.lazy import require_made, take_shapes
from ntt_cli.networks.loading.open import open_weights


class LoadOptions(ModelOptions, WeightsOptions):
    """The options of `load`."""


def load(
    path: str | PathLike[str], model: str | PathLike[str] | nn.Module, *, progress: Progress = False, **options: Any
) -> SparseNetwork:
    """Read the weights and masks of a network from a checkpoint, strictly.

    Args:
        path: a safetensors file, of ntt's or from elsewhere; a folder with one; an index of several; or a file of
            `torch.save`, which torch reads with `weights_only=True`.
        model: the network that the weights belong to, which is left as it is; an object, or a name as on the command
            line.
        progress: `True` writes lines to stderr about how the file was read; a function is given each event.
        **options: `model_arg`, `logits` and `outputs`, as of all commands, where `model` is a name; `weights_prefix`
            and `ignore_extra`, as of `ntt prune`.

    Returns:
        the network with these weights: `.model` and `.masks`.

    Raises:
        UsageError: if an option is wrong.
        CheckpointError: if the file cannot be read, is damaged, or belongs to another network.
        ModelError: if there is no such network.

    Example:
        >>> import tempfile, torch, ntt_cli as ntt
        >>> net = torch.nn.Linear(4, 8)
        >>> path = tempfile.mkdtemp() + "/sparse.safetensors"
        >>> saved = ntt.prune(net, sparsity=0.75, method="magnitude", output=path)
        >>> ntt.load(path, net)
        <SparseNetwork of torch.nn.modules.linear.Linear: 8 of 32 prunable weights kept>
    """
    network, sources = network_of(model)
    config = configured(LoadOptions, network | options)
    with apart(progress, sources) as (on_event, _):
        checkpoint = read_checkpoint(Path(path))
        loaded = sources.load_model(config, seed=0)
        take_shapes(loaded.module, checkpoint.tensors)
        require_made(loaded.module, loaded.source, hint="pass one batch through the network first")
        weights = open_weights(checkpoint, loaded, on_event, options=config)
    state = {name: value.detach().cpu() for name, value in saved_tensors(loaded.module).items()}
    found = Checkpoint(path=checkpoint.path, tensors=state, masks=weights.masks, record=checkpoint.record)
    of_model = {name: value for name, value in config.given().items() if name in ModelOptions.model_fields}
    return SparseNetwork(read=partial(_same, found), architecture=sources, options=of_model)


def _same(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint

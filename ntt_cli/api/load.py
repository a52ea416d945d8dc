"""`ntt_cli.load`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ntt_cli.api.calls import Progress, apart
from ntt_cli.api.network import OF_MODEL, SparseNetwork, network_of
from ntt_cli.config import ModelOptions
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.networks.loading.open import open_weights


def load(
    path: str | PathLike[str], model: str | PathLike[str] | nn.Module, *, progress: Progress = False, **options: Any
) -> SparseNetwork:
    """Read the weights and masks of a network from a checkpoint, strictly.

    Args:
        path: a safetensors file, of ntt's or from elsewhere; a folder with one; or an index of several.
        model: the network that the weights belong to, which is left as it is; an object, or a name as on the command
            line.
        progress: `True` writes lines to stderr about how the file was read; a function is given each event.
        **options: `model_arg` and `logits`, as of all commands, where `model` is a name.

    Returns:
        the network with these weights: `.model` and `.masks`.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or belongs to another network.
        ModelError: if there is no such network.
    """
    network, sources = network_of(model)
    named = network | {name: value for name, value in options.items() if name in OF_MODEL}
    with apart(progress) as (on_event, _):
        checkpoint = read_checkpoint(Path(path))
        loaded = sources.load_model(ModelOptions(**named), seed=0)
        weights = open_weights(checkpoint, loaded, on_event)
    state = {name: value.detach().cpu() for name, value in loaded.module.state_dict().items()}
    found = Checkpoint(path=checkpoint.path, tensors=state, masks=weights.masks, record=checkpoint.record)
    return SparseNetwork(read=lambda: found, architecture=sources, options=named)

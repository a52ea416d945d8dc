"""Networks that a caller of the Python functions hands over as objects, which are never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ntt_cli.errors import ModelError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.hashed import tensor_hashes
from ntt_cli.networks.copying import UncopyableError, copy_module
from ntt_cli.networks.loading.models import LoadedModel, check_kind, check_network, own_memory, saved_values
from ntt_cli.networks.outputs import SelectOutputs, usual_logits
from ntt_cli.runtime.seeding import global_draws_apart
from ntt_cli.runtime.shared_memory import tie_shared_parameters


def loaded_from(module: nn.Module, *, trained: bool, select_outputs: SelectOutputs | None = None) -> LoadedModel:
    """A copy of the caller's network, which has passed the checks of one that a factory builds.

    It is in the mode and on the device of the caller's, and tied parameters are tied. Its hooks are the caller's: what
    they write to outside of the network, they still write to.

    Args:
        module: the caller's network, which is left as it is.
        trained: whether its weights are more than a draw of the initialisation.
        select_outputs: the logits among what it returns; by default, as `usual_logits` finds them.

    Raises:
        ModelError: if it is no network, or one that cannot be copied, taken apart or written.
    """
    kind = type(module)
    if not isinstance(module, nn.Module):
        is_class = isinstance(module, type) and issubclass(module, nn.Module)
        what = f"is the class {module.__name__}" if is_class else f"is a value of type {kind.__name__}"
        raise ModelError("model", f"{what}, not a torch.nn.Module", hint="pass the network itself, as Net() makes it")
    with global_draws_apart():
        copied = _copy(module, kind.__name__)
        check_network(copied, kind.__name__, nullcontext())
    return LoadedModel(
        module=copied,
        source=f"{kind.__module__}.{kind.__qualname__}",
        sha256=None,
        data=None,
        input_shape=None,
        select_outputs=select_outputs or usual_logits,
        trained=trained,
    )


def sparse_copy(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the caller's network with the values of this state dict, which has to fit exactly.

    It is in the mode, on the device and of the types of the caller's, which is left as it is.

    Raises:
        ModelError: if the network cannot be copied, or does not load the state dict.
    """
    where = type(module).__name__
    with global_draws_apart():
        copied = _copy(module, where)
        own_memory(copied)  # no values can be loaded into an expanded view
        try:
            copied.load_state_dict(state, strict=True)
        except RuntimeError as failure:
            hint = "pass the network that the state dict belongs to"
            raise ModelError(where, f"does not load the state dict: {failure}", hint=hint) from failure
    return copied


def state_sha256(module: nn.Module) -> str:
    """Of the names, types, shapes and values of parameters and persistent buffers, on whatever device they are."""
    saved = dict(sorted(saved_values(module).items()))
    dense = {name: value if value.layout is torch.strided else value.to_dense() for name, value in saved.items()}
    hashes = tensor_hashes(dense)
    described = [[name, str(value.dtype), list(value.shape), hashes[name]] for name, value in dense.items()]
    return sha256_of(json.dumps(described).encode())


def _copy(module: nn.Module, where: str) -> nn.Module:
    """A deep copy in which parameters that are the same numbers in memory are one parameter.

    `copy.deepcopy` gives each of two parameters over one memory a memory of its own.

    Raises:
        ModelError: if it cannot be copied, or parameters share memory in part.
    """
    check_kind(module, where, verb="pass")
    tied = _skeleton(module)
    tie_shared_parameters(tied, where)
    try:
        copied = copy_module(module)
    except UncopyableError as error:
        hint = "make it in forward(), or give its class a __deepcopy__"
        raise ModelError(where, str(error), hint=hint) from error
    names = {id(p): name for name, p in module.named_parameters()}
    copies = dict(copied.named_parameters(remove_duplicate=False))
    for name, p in tied.named_parameters(remove_duplicate=False):
        first = copies[names[id(p)]]
        if copies[name] is not first:
            layer, _, own_name = name.rpartition(".")
            setattr(copied.get_submodule(layer), own_name, first)
    return copied


def _skeleton(module: nn.Module) -> nn.Module:
    """Bare modules that hold the parameters and buffers of another under the same names."""
    bare = nn.Module()
    bare._parameters.update(module._parameters)
    bare._buffers.update(module._buffers)
    bare._modules.update({name: None if child is None else _skeleton(child) for name, child in module._modules.items()})
    return bare

"""Networks that a caller of the Python functions passes as objects. They are never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ntt_cli.errors import ModelError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.hashed import tensor_hashes
from ntt_cli.networks.copying import UncopyableError, copy_module
from ntt_cli.networks.loading.checks import check_kind, check_network, own_memory, saved_values
from ntt_cli.networks.loading.lazy import has_lazy, make_lazy
from ntt_cli.networks.loading.models import FirstBatch, LoadedModel
from ntt_cli.networks.outputs import SelectOutputs, usual_logits
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do
from ntt_cli.runtime.shared_memory import tie_shared_parameters


def loaded_from(
    module: nn.Module,
    *,
    trained: bool,
    select_outputs: SelectOutputs | None = None,
    seed: int = 0,
    first_batch: FirstBatch = lambda _: None,
) -> LoadedModel:
    """A copy of the caller's network, with the same checks as for one that a factory builds.

    Lazy layers of the copy are made by `first_batch`, as `load_model` does, with weights drawn from `seed`.

    The copy has the mode and the device of the original, and its tied parameters stay tied. It has the same hooks,
    which still write to objects outside of the network.

    Raises:
        ModelError: if it is not a network, or cannot be copied, turned into a function or written.
    """
    kind = type(module)
    if not isinstance(module, nn.Module):
        is_class = isinstance(module, type) and issubclass(module, nn.Module)
        what = f"is the class {module.__name__}" if is_class else f"is a value of type {kind.__name__}"
        raise ModelError("model", f"{what}, not a torch.nn.Module", hint="pass the network itself, as Net() makes it")
    with global_draws_apart():
        copied, source = _copy(module, kind.__name__), f"{kind.__module__}.{kind.__qualname__}"
        loaded = LoadedModel(copied, source, select_outputs=select_outputs or usual_logits, trained=trained)
        if has_lazy(copied) and (x := first_batch(loaded)) is not None:
            seed_as_users_do(seed)
            make_lazy(copied, x, kind.__name__, nullcontext())
        check_network(copied, kind.__name__, nullcontext())
    return loaded


def sparse_copy(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the caller's network with the values of this state dict, which must fit exactly.

    The copy has the mode, the device and the types of the original, which is not changed.

    Raises:
        ModelError: if the network cannot be copied, or does not load the state dict.
    """
    where = type(module).__name__
    with global_draws_apart():
        copied = _copy(module, where)
        own_memory(copied)  # an expanded view cannot be loaded into
        try:
            copied.load_state_dict(_extra_state(copied) | dict(state), strict=True)
        except RuntimeError as failure:
            hint = "pass the network that the state dict belongs to"
            raise ModelError(where, f"does not load the state dict: {failure}", hint=hint) from failure
    return copied


def _extra_state(module: nn.Module) -> dict[str, Any]:
    """The entries of its state dict that are no tensors, which no checkpoint holds."""
    if has_lazy(module):
        return {}
    return {name: value for name, value in module.state_dict().items() if not isinstance(value, Tensor)}


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of parameters and persistent buffers, independent of the device."""
    saved = {name: value for name, value in sorted(saved_values(module).items()) if not is_lazy(value)}
    dense = {name: value if value.layout is torch.strided else value.to_dense() for name, value in saved.items()}
    hashes = tensor_hashes(dense)
    described = [[name, str(value.dtype), list(value.shape), hashes[name]] for name, value in dense.items()]
    return sha256_of(json.dumps(described).encode())


def _copy(module: nn.Module, where: str) -> nn.Module:
    """A deep copy in which parameters that share all of their memory are one parameter."""
    check_kind(module, where, verb="pass")
    tied = skeleton(module)  # `copy.deepcopy` alone would give each of them its own memory
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


def skeleton(module: nn.Module) -> nn.Module:
    """Plain modules with the parameters and buffers of another module under the same names."""
    bare = nn.Module()
    bare._parameters.update(module._parameters)
    bare._buffers.update(module._buffers)
    bare._modules.update({name: None if child is None else skeleton(child) for name, child in module._modules.items()})
    return bare

"""Refuse networks that cannot be copied, turned into a function or written to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod

from ntt_cli.errors import ModelError
from ntt_cli.files.hashed import can_be_named, can_hold
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.loading.lazy import has_lazy
from ntt_cli.runtime.python_source import said_by
from ntt_cli.runtime.shared_memory import tie_shared_parameters


def check_network(built: nn.Module, where: str, running_code: AbstractContextManager[None]) -> None:
    """Refuse parameters that share part of their memory, and a state that no checkpoint could hold; prepare the others.

    The network changes in place but keeps its values. Its own `state_dict()` runs in the context `running_code`. One
    with lazy layers has no state yet.
    """
    tie_shared_parameters(built, where)
    if has_lazy(built):
        return
    with running_code:
        state = built.state_dict(keep_vars=True)
    _check_state(built, state, where)
    for layer in built.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False  # the same gradients, in a layout that optimisers and kernels accept
    own_memory(built)


def own_memory(built: nn.Module) -> None:
    """Copy values that were made in inference mode or share memory within themselves, such as expanded views."""
    renewed: dict[int, Tensor] = {}
    for module in built.modules():
        for values in (module._parameters, module._buffers):
            for name, value in list(values.items()):
                if value is None or is_lazy(value) or not (value.is_inference() or 0 in value.stride()):
                    continue
                if id(value) not in renewed:
                    copied = value.detach().clone(memory_format=torch.contiguous_format)
                    trainable = value.requires_grad
                    renewed[id(value)] = nn.Parameter(copied, trainable) if isinstance(value, nn.Parameter) else copied
                setattr(module, name, renewed[id(value)])


def check_kind(built: nn.Module, where: str, *, verb: str) -> None:
    """Refuse a network that cannot be copied and turned into a function.

    Raises:
        ModelError: about `where`, if it is scripted, compiled, wrapped, quantised or masked by torch's own pruning, or
            has parameters without values. `verb` says how its author provides it: "return" or "pass".
    """
    for name, module in built.named_modules():
        what = name or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            hint = f"{verb} the torch.nn.Module that it was made of"
            raise ModelError(where, f"{what} is TorchScript, which cannot be turned into a function", hint=hint)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            hint = f"{verb} the network inside, model.module; torchrun has several processes prune one network"
            raise ModelError(where, f"{what} is wrapped in {type(module).__name__}", hint=hint)
        if type(module).__name__ == "OptimizedModule":  # importing its class takes a second
            hint = f"{verb} the network itself; --compile compiles the steps"
            raise ModelError(where, f"{what} is compiled already", hint=hint)
        if "quantized" in type(module).__module__.split("."):
            hint = "prune the network in floating point, and quantise the sparse one"
            raise ModelError(where, f"{what} is quantised: it packs its weights as integers", hint=hint)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                hint = f"call torch.nn.utils.prune.remove(layer, {hook._tensor_name!r}) first"
                raise ModelError(where, f"{what} carries a mask of torch.nn.utils.prune", hint=hint)
    for key, value in [*built.named_parameters(), *built.named_buffers()]:
        if not is_lazy(value) and value.is_meta:
            raise ModelError(
                where, f"{key} has no values: it is on the meta device", hint="build the network on the CPU"
            )


def _check_state(built: nn.Module, state: Mapping[str, object], where: str) -> None:
    """Refuse a state dict that no checkpoint could hold, before any work."""
    hint = "mend its state_dict(), get_extra_state() or hooks: a checkpoint holds tensors under the network's own names"
    usual = saved_values(built)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for key in [key for key in state if key not in tensors and not key.endswith(_EXTRA_STATE_KEY_SUFFIX)]:
        what = f"its state dict holds {key}, of type {type(state[key]).__name__}, not a tensor"
        raise ModelError(where, what, hint=hint)
    for key, tensor in tensors.items():
        if not can_be_named(key) or (key not in usual and not can_hold(tensor)):
            raise ModelError(where, f"its state dict holds {key}, which no safetensors file does", hint=hint)
    for key, parameter in built.named_parameters(remove_duplicate=False):
        if key not in tensors or tensors[key].shape != parameter.shape:
            raise ModelError(where, f"its state dict does not hold the parameter {key} under that name", hint=hint)
        if not _are_same(tensors[key], parameter):
            what = f"its state dict holds {key} in another type or with other values than the parameter has"
            raise ModelError(where, what, hint=hint)
    as_usual = tensors.keys() == usual.keys() and all(tensors[key] is value for key, value in usual.items())
    if not as_usual or _loads_its_own_way(built):
        _check_loading(built, state, where, hint)


def _loads_its_own_way(built: nn.Module) -> bool:
    hooked = any(m._load_state_dict_pre_hooks or m._load_state_dict_post_hooks for m in built.modules())
    return hooked or type(built).load_state_dict is not nn.Module.load_state_dict


def _check_loading(built: nn.Module, state: Mapping[str, object], where: str, hint: str) -> None:
    """Refuse a network that changes when it loads its own state dict."""
    copies = {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}
    try:
        loaded = copy_module(built)
        loaded.load_state_dict(copies, strict=True)
    except (Exception, SystemExit) as failure:
        what = f"does not load its own state dict: {type(failure).__name__}: {said_by(failure)}"
        raise ModelError(where, what, hint=hint) from failure
    after = saved_values(loaded)
    for key, value in saved_values(built).items():
        if key not in after or not _are_same(after[key], value):
            raise ModelError(where, f"has another {key} once it has loaded its own state dict", hint=hint)


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape, layout and, if dense, the same bits."""
    if one is other:
        return True
    if any((one.dtype != other.dtype, one.shape != other.shape, one.layout is not other.layout)):
        return False
    return one.layout is not torch.strided or torch.equal(_bits(one), _bits(other))


def _bits(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8)


def saved_values(built: nn.Module) -> dict[str, Tensor]:
    """The parameters and the persistent buffers, by all of their names."""
    persistent = {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, module in built.named_modules(remove_duplicate=False)
        for name, value in module._buffers.items()
        if value is not None and name not in module._non_persistent_buffers_set
    }
    return dict(built.named_parameters(remove_duplicate=False)) | persistent

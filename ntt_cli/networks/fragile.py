"""Weights that must not lose a whole slice, because the network divides by the norm of the slice or of its outputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.tensors import Apply, Params

AXES = (0, 1)
"""Axes along which a layer's weights may be normalised: by output, or by input."""

TOO_STEEP = 1e6
"""By what factor a derivative may grow. With a small number in place of a zero norm, it grows by 1e12."""


def fragile_axes(apply: Apply, params: Params, names: Sequence[str], x: Batch) -> dict[str, int]:
    """The axis of each fragile weight, found by setting the first slice along the axis to zero.

    The weight is fragile if the outputs or their derivatives then are not finite or are far too large. Weight
    normalisation is such a case, `v / |v|`; attention between channels normalises each channel.
    """
    steepest = _steepest(apply, params, x)
    found: dict[str, int] = {}
    if steepest == math.inf:
        return found

    def breaks(chosen: Collection[str], axis: int) -> bool:
        emptied = {name: _without_first(p, axis) if name in chosen else p for name, p in params.items()}
        return _steepest(apply, emptied, x) > TOO_STEEP * max(steepest, 1.0)

    for axis in AXES:
        several = [name for name in names if params[name].shape[axis] > 1]
        if breaks(several, axis):  # mostly not, and one check covers all weights
            found |= {name: axis for name in several if name not in found and breaks([name], axis)}
    return found


def fragile_parametrizations(model: FunctionalModel, names: Sequence[str]) -> dict[str, int]:
    """As `fragile_axes`, for parametrised weights, without inputs."""
    found: dict[str, int] = {}
    for name in names:
        prefix, _, leaf = name.rpartition(".")
        if ".parametrizations." not in f".{prefix}.":
            continue
        module = model.module.get_submodule(prefix)
        own = {n: model.params.get(f"{prefix}.{n}", p) for n, p in module.named_parameters(recurse=False)}
        for axis in AXES:
            emptied = own | {leaf: _without_first(own[leaf], axis)}
            with torch.no_grad():
                if not torch.func.functional_call(module, emptied, ()).isfinite().all():
                    found.setdefault(name, axis)
    return found


def _without_first(p: Tensor, axis: int) -> Tensor:
    emptied = p.detach().clone()
    emptied.select(axis, 0).zero_()
    return emptied


def _steepest(apply: Apply, params: Params, x: Batch) -> float:
    """The largest derivative of the outputs' sum; infinity if outputs or derivatives are not finite."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        logits = apply(leaves, x)
        gradients = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    largest = [float(g.abs().max()) for g in gradients if g is not None and g.numel()]
    sound = bool(logits.isfinite().all()) and all(torch.tensor(largest).isfinite())
    return max(largest, default=0.0) if sound else math.inf

"""Along which axis of a weight its inputs lie, for patterns of consecutive inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ntt_cli.data.inputs import Inputs
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.layer_inputs import layers_in_order
from ntt_cli.networks.prunable import LAYERS, owner_of

FEW = 2
"""Samples that show how a network uses weights that belong to none of torch's layers."""


@dataclass(frozen=True)
class InputAxis:
    """The axis of a weight's inputs, and how many an output has: of a convolution in groups, those of its group."""

    axis: int
    inputs: int


def input_axes(model: FunctionalModel, names: tuple[str, ...], inputs: Inputs | None) -> dict[str, InputAxis]:
    """The input axes of these weights. Weights whose inputs lie along no single axis, or are not known, are left out.

    A Linear weight is `[outputs, inputs]`, and so are weights of recurrent layers and of attention. A convolution is
    `[outputs, inputs, *kernel]`: consecutive entries of the axis belong to consecutive input channels at one position
    of the kernel. NVIDIA's ASP divides both in the same way: `create_mask` of
    https://github.com/NVIDIA/apex/blob/master/apex/contrib/sparsity/sparse_masklib.py. torch, too, takes the pattern
    along the rows of a Linear weight (`torch.sparse.to_sparse_semi_structured`). A transposed convolution is
    `[inputs, outputs, *kernel]`. Of weights that belong to none of torch's layers, a few samples show the use.
    """
    parameters = {id(p): name for name, p in model.module.named_parameters()}
    found: dict[str, InputAxis] = {}
    for prefix, module in model.module.named_modules(remove_duplicate=False):
        for leaf, p in module.named_parameters(recurse=False):
            name = parameters[id(p)]
            owner, weight = owner_of(model.module, prefix, module, leaf)
            is_layer = isinstance(owner, LAYERS) and not isinstance(owner, nn.Bilinear)
            if name in names and is_layer and "weight" in weight:
                found[name] = _of_layer(owner, model.params[name].shape)
    others = [name for name in names if name not in found]
    if others and inputs is not None:
        x = inputs.batch(torch.arange(min(FEW, len(inputs))))
        for name, layout in layers_in_order(model.bind(), model.params, others, x).items():
            axis = 0 if layout.transposed else 1
            found[name] = InputAxis(axis, model.params[name].shape[axis])
    return found


def _of_layer(layer: nn.Module, shape: torch.Size) -> InputAxis:
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return InputAxis(0, shape[0] // layer.groups)
    return InputAxis(1, shape[1])

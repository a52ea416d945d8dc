"""Supervised training steps that keep pruned weights at zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntt_cli.data.batch import Batch, parts_of
from ntt_cli.masks.masks import zero_pruned
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.networks.outputs import SelectOutputs, usual_logits
from ntt_cli.networks.targets import call_to_train
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.optimiser import advance
from ntt_cli.tasks.base import Task
from ntt_cli.tasks.classification import CLASSIFICATION
from ntt_cli.tensors import Masks

OptimiserName = Literal["adamw", "sgd"]

_DENSE_RATE = {"adamw": 1e-3, "sgd": 2e-2}
_MOST = 10.0

LONGEST_GRADIENT: dict[OptimiserName, float | None] = {"adamw": None, "sgd": 1.0}
"""The norm over all kept weights to which gradients are clipped; Adam normalises gradients itself.

Without clipping, at the default rate, LeNet-5 pruned by NTT diverges within one epoch (docs/notebook/23-sgd.md).
"""


def default_learning_rate(optimiser: OptimiserName, *, density: float) -> float:
    """The dense network's usual rate over `sqrt(density)`, at most ten times as high.

    With fewer weights the same rate changes the function less, so a sparse network needs a higher rate. At 1% density,
    all methods do better with Adam at 1e-2 than at 1e-3.
    """
    return _DENSE_RATE[optimiser] * min(_MOST, 1 / math.sqrt(density))


def make_optimiser(
    name: OptimiserName, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9; `training_step` clips the gradients."""
    trained = list(parameters)
    # torch's fused optimisers use one kernel for all parameters; some devices lack them.
    fused = all(p.device.type in {"cpu", "cuda"} for p in trained)
    if name == "sgd":
        return torch.optim.SGD(trained, lr=learning_rate, momentum=0.9, weight_decay=weight_decay, fused=fused)
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=fused)


@dataclass(frozen=True)
class SparseModule:
    """A module in training mode, with the masks of its pruned weights, from `as_bits`."""

    module: nn.Module
    mask_bits: Masks
    select_outputs: SelectOutputs = usual_logits
    task: Task = CLASSIFICATION
    output_mask: OutputMask | None = None

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())


def training_step(
    network: SparseModule,
    optimiser: torch.optim.Optimizer,
    x: Batch,
    labels: Any,
    *,
    longest: float | None = None,
    execution: Execution = Execution(),
) -> Float[Tensor, ""]:
    """One step on the task's loss, in place; returns the loss before it. Pruned entries are zero afterwards.

    A gradient whose norm over all kept entries is above `longest` is scaled down to it. The processes that share the
    batch all change the same network in the same way. Training takes whole batches: a micro-batch is ignored.

    Raises:
        FloatingPointError: if the learning rate is beyond the range of the numbers.
    """
    parameters = network.parameters
    optimiser.zero_grad(set_to_none=True)
    task, counts, losses = network.task, [], []
    for part, targets in zip(parts_of(x), parts_of(labels), strict=True):
        returned = call_to_train(network.module, part, targets, network.select_outputs)
        outputs = task.outputs_of(returned, network.select_outputs)
        outputs, counted = task.counted(outputs, targets, part, network.output_mask)
        counts.append(task.count(counted))
        losses.append(task.total(outputs, counted))
    count = execution.all_reduce({"labels": torch.stack(counts).sum()})["labels"]
    loss = torch.stack(losses).sum() / torch.where(count == 0, 1, count)
    loss.backward()
    moved = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    sums = execution.all_reduce(moved | {"": loss.detach()})
    for name in moved:
        parameters[name].grad = sums[name]
    if longest is not None:
        for name in moved.keys() & network.mask_bits.keys():
            zero_pruned(sums[name], network.mask_bits[name])
        nn.utils.clip_grad_norm_([parameters[name] for name in moved], longest)
    advance(optimiser)
    for name, mask in network.mask_bits.items():
        zero_pruned(parameters[name], mask)  # momentum and decay may have changed pruned entries
    return sums[""]

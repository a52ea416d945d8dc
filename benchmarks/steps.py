"""A plain SGD step and an NTT step of the same network on the same batch, for the other benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ntt_cli.config import ModelOptions
from ntt_cli.kernels.product import Outputs, compute_outputs, draw_probe
from ntt_cli.masks.allocation import allocate
from ntt_cli.masks.masks import choose_masks
from ntt_cli.methods.magnitude import magnitude_scores
from ntt_cli.methods.ntt.compiled import CompiledGradients, CompiledOutputs
from ntt_cli.methods.ntt.objective import Objective
from ntt_cli.methods.ntt.step import Gradients, StepBatch, start_student, transfer_step, under_masks
from ntt_cli.networks.batch_norm import estimate_statistics
from ntt_cli.networks.flops import seldom_used, uses_weights_seldom
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.loading.models import load_model
from ntt_cli.networks.prepare import channels_last
from ntt_cli.networks.prunable import prunable_names
from ntt_cli.runtime.compiled_code import keep_compiled_code_private
from ntt_cli.runtime.execution import Execution

Step = Callable[[], None]


@dataclass(frozen=True)
class Passes:
    """What computes the teacher's outputs, and the gradients: compiled or not; shared, because they compile once.

    Attributes:
        outputs: as `compute_outputs`.
        gradients: as `transfer_gradients`; `None` for that itself.
    """

    outputs: Callable[..., Outputs] = compute_outputs
    gradients: Gradients | None = None


PLAIN = Passes()


@dataclass(frozen=True)
class Case:
    """A network, and the batch it is measured on.

    Attributes:
        model: as `ntt prune` takes it.
        shape: of a sample.
        batch: samples.
        args: of the factory.
        tokens: how many kinds of them a sample has; 0 for numbers.
        device: where.
    """

    model: str
    shape: tuple[int, ...]
    batch: int
    args: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    device: str = "cpu"


ZOO = {
    "LeNet-300-100": Case("sample_models/lenet_300_100.py", (1, 28, 28), 64),
    "LeNet-5": Case("sample_models/lenet5_caffe.py", (1, 28, 28), 64),
    "Conv-4": Case("sample_models/conv4.py", (3, 32, 32), 64),
    "ResNet-20": Case("sample_models/resnet20.py", (1, 28, 28), 64),
    "ResNet-18": Case("torchvision:resnet18", (3, 64, 64), 32, {"num_classes": 10}),
    "ViT": Case("sample_models/vit_tiny.py", (1, 28, 28), 64),
    "MobileNetV2": Case("torchvision:mobilenet_v2", (3, 64, 64), 32, {"num_classes": 10}),
    "ResNet-50": Case("torchvision:resnet50", (3, 64, 64), 32, {"num_classes": 10}),
    "VGG-16-BN": Case("torchvision:vgg16_bn", (3, 64, 64), 32, {"num_classes": 10}),
    "ConvNeXt-T": Case("torchvision:convnext_tiny", (3, 64, 64), 32, {"num_classes": 10}),
    "decoder": Case("benchmarks/sequences.py:decoder", (64,), 32, tokens=1000),
    "LSTM": Case("benchmarks/sequences.py:lstm", (32, 64), 64),
    "GRU": Case("benchmarks/sequences.py:gru", (32, 64), 64),
}


GROWTH = {
    "LeNet-5, 10 outputs": ZOO["LeNet-5"],
    "LeNet-5, 100 outputs": replace(ZOO["LeNet-5"], args={"classes": 100}),
    "LeNet-5, 1,000 outputs": replace(ZOO["LeNet-5"], args={"classes": 1000}),
    "ResNet-18, 1,000 outputs (11.7 M weights)": replace(ZOO["ResNet-18"], args={"num_classes": 1000}),
    "ResNet-50, 1,000 outputs (25.6 M weights)": Case("torchvision:resnet50", (3, 64, 64), 16, {"num_classes": 1000}),
}


def plain_step(case: Case, *, channels_last: bool = False, adamw: bool = False) -> Step:
    """Forward, backward and update by SGD or AdamW, in the layout that PyTorch gives or in the other."""
    module = _module(case)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    x, generator = _batch(case)
    with torch.no_grad():
        *rows, outputs = module(x[:2]).shape
    labels = torch.randint(outputs, (len(x), *rows[1:]), generator=generator).flatten().to(case.device)
    optimiser = (torch.optim.AdamW if adamw else torch.optim.SGD)(module.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(module(x).flatten(0, -2), labels).backward()
        optimiser.step()

    return step


def compiled_passes(case: Case) -> Passes:
    """As `ntt prune --compile` has them; they compile when first asked."""
    keep_compiled_code_private()
    model = functional_model(_module(case))
    return Passes(CompiledOutputs(model), CompiledGradients(model))


def ntt_step(case: Case, *, cached: bool = False, passes: Passes = PLAIN) -> Step:
    """All that `ntt prune` does in a step, drawing the probe and the teacher's passes included unless `cached`."""
    teacher = functional_model(_module(case))
    x, generator = _batch(case)
    # As `ntt prune` does: untrained statistics would let the signal vanish, and denormal numbers are slow.
    teacher = replace(teacher, buffers=estimate_statistics(teacher, teacher.params, teacher.buffers, [x]))
    seldom = seldom_used(teacher.bind(), teacher.params, x[:1])
    teacher = replace(teacher, params=channels_last(teacher.params, but=seldom))  # as `ntt prune` lays them out
    apply, params = teacher.bind(), teacher.params
    execution = Execution(keep_graph=uses_weights_seldom(apply, params, x[:1]))
    student = start_student(teacher, prunable_names(teacher), learning_rate=1e-4, compiled=passes.gradients)
    scores = magnitude_scores(params, student.mask_bits)
    masks = choose_masks(scores, allocate("erk", scores, density=0.05))
    student = under_masks(student, masks, density=0.05, apply=apply)
    objective = Objective("relative", kernel_weight=1.0, weight_penalty=0.0)
    x1, x2 = x.chunk(2)
    with torch.no_grad():
        like = apply(params, x2)
    shape = tuple(like.shape)
    probe = draw_probe(shape, like=like, generator=generator)
    known = compute_outputs(apply, params, x1, x2, probe) if cached else None

    def step() -> None:
        v = probe if cached else draw_probe(shape, like=like, generator=generator)
        theirs = known or passes.outputs(apply, params, x1, x2, v)
        transfer_step(student, StepBatch(x1, x2, v, theirs), objective, execution)

    return step


def _module(case: Case) -> nn.Module:
    return load_model(ModelOptions(model=case.model, model_arg=_args(case)), seed=0).module.train().to(case.device)


def _args(case: Case) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in case.args.items())


def _batch(case: Case) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, *case.shape)
    x = (
        torch.randint(case.tokens, shape, generator=generator)
        if case.tokens
        else torch.randn(shape, generator=generator)
    )
    return x.to(case.device), generator

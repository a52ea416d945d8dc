"""Masks learnt as random gates by NTT's own loss, for `ablations.py`: CTS's gates, with another loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import jvp

import ntt_cli as ntt
from ntt_cli.methods.cts_kl import CTSKL, gated
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.tensors import Apply, Params

KERNEL_WEIGHT = 1.0
"""Of the kernel's relative distance beside the outputs'."""


class TransferGates(CTSKL):
    """Gates `g` over the weights `w` that are to keep the outputs `f(g w)` and the kernel with respect to `w`."""

    def loss(self, context: ntt.MethodContext, student: Apply, gates: Params, x: object) -> Tensor:
        """`λ ‖K_s v − K_t v‖² / ‖K_t v‖² + ‖f_s − f_t‖² / ‖f_t‖²`, with a Gaussian probe `v`."""
        assert isinstance(x, torch.Tensor)
        x1, x2 = x.chunk(2)
        probe = torch.randn(len(x2), context.outputs, generator=context.generator)
        params = {name: p.detach().requires_grad_() for name, p in context.params.items()}
        ones = {name: torch.ones_like(g) for name, g in gates.items()}
        kernel_t, outputs_t = _products(context.apply, params, ones, x1, x2, probe)
        kernel_s, outputs_s = _products(student, params, gates, x1, x2, probe)
        distance = relative(outputs_s, outputs_t.detach())
        return KERNEL_WEIGHT * relative(kernel_s, kernel_t.detach()) + distance


@ntt.register_method("ntt-under-gates")
class Under(ntt.NTT):
    """NTT's steps move the weights under a mask that gates learnt first."""

    def __init__(self, gates: type[CTSKL]) -> None:
        super().__init__()
        self.gates = gates

    def transfer_of(self, context: ntt.MethodContext) -> Transfer:
        return replace(super().transfer_of(context), fixed_masks=self.gates().masks(context))


def _products(
    apply: Apply, params: Params, gates: Params, x1: Tensor, x2: Tensor, probe: Tensor
) -> tuple[Tensor, Tensor]:
    """`J(x1) J(x2)ᵀ v`, where the derivatives are with respect to the weights, and the outputs of both halves."""
    names, second = list(params), apply(gated(params, gates), x2)
    u = torch.autograd.grad(second, list(params.values()), probe, create_graph=True)

    def first(*values: Tensor) -> Tensor:
        return apply(gated(dict(zip(names, values, strict=True)), gates), x1)

    found = jvp(first, tuple(params.values()), u)
    return found[1], torch.cat([found[0], second])


def relative(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().sum() / theirs.square().sum()

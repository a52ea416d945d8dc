"""PX, path exclusion: the share of each weight in a bound on the kernel's trace. Iurada et al. 2024."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ntt_cli.data.batch import Batch, map_batch
from ntt_cli.errors import ModelError
from ntt_cli.methods.base import ROUNDS, Method, MethodContext, register_method
from ntt_cli.methods.snip import gradients_of
from ntt_cli.networks.batch_norm import untrained_statistics
from ntt_cli.tensors import Apply, Masks, Params

RECTIFIERS: frozenset[Any] = frozenset({
    F.relu,
    F.relu_,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.celu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    F.hardswish,
    F.softplus,
}) | {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
"""Activations that let positive inputs pass and stop negative ones, or most of them."""


@register_method("px")
class PX(Method):
    """`θ² · ∂R/∂θ²` for a bound `R` on the trace of the kernel, a sum over active paths, in 100 rounds."""

    rounds = ROUNDS
    reads = frozenset({"batch_size"})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        """`px_scores` of one batch, the same in every round, with the statistics of an untrained batch norm."""
        buffers = untrained_statistics(context.teacher, context.teacher.buffers)
        doubled = {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}
        x = next(context.batches())
        return px_scores(context.teacher.bind(doubled), context.masked(masks), masks, x, gates_of=context.apply)


def px_scores(apply: Apply, params: Params, masks: Masks, x: Batch, *, gates_of: Apply) -> dict[str, Tensor]:
    """`θ² · ∂R/∂θ²` in double precision. Iurada et al. 2024, arXiv 2406.01820.

    `R = Σ_c G_c · Σ_n J_c(x_n)`: `G` is the output for ones of the network of squared weights, in which every
    rectifier is the identity. `J` is the output for `x²` of the network whose kept weights are 1, in which each
    rectifier passes what it passes in the network itself for `x`. Biases are 0, since a path begins at an input.
    The authors' code leaves the last layer's weights as they are; here, as in the paper, they are squared too.

    Args:
        apply: the network at buffers in double precision, for `G` and `J`.
        params: all parameters, pruned entries zero; these score zero.
        masks: of the weights to score.
        x: inputs, `[n, ...]`; parts that hold integers stay as they are.
        gates_of: the network itself, as a function.

    Raises:
        ModelError: if the network calls no rectifier.
    """
    with torch.no_grad(), _Gates() as gates:
        gates_of(params, x)
    if not gates.open:
        what = "has no rectifier (ReLU, GELU, ...), whose active paths px counts"
        raise ModelError("the network", what, hint="another --method, such as synflow")

    def network(value: Callable[[Tensor], Tensor]) -> Params:
        ones = {name: _unit(name, p) for name, p in params.items()}
        return {name: value(p.detach().double()) * ones[name] for name, p in params.items()}

    units = network(torch.ones_like) | {name: mask.double() for name, mask in masks.items()}
    with torch.no_grad(), _Gates(gates.open):
        active = apply(units, map_batch(lambda part: part.double().square() if part.is_floating_point() else part, x))
    leaves = {name: p.requires_grad_() for name, p in network(torch.square).items()}
    ones = map_batch(lambda part: torch.ones_like(part[:1]).double() if part.is_floating_point() else part[:1], x)
    with torch.enable_grad(), _Gates(identity=True):
        bound = (apply(leaves, ones) * active.sum(dim=0)).sum()
        gradients = gradients_of(bound, leaves, masks)
    return {name: leaves[name].detach() * gradient for name, gradient in gradients.items()}


def _unit(name: str, parameter: Tensor) -> float:
    """0 for biases, which begin no path, else 1."""
    return float(parameter.ndim > 1 or name.rpartition(".")[2] == "weight")


class _Gates(TorchFunctionMode):
    """Observes which inputs of rectifiers are positive, or replaces rectifiers by these gates or by the identity."""

    def __init__(self, gates: Iterable[Tensor] | None = None, *, identity: bool = False) -> None:
        super().__init__()
        self.open: list[Tensor] = []
        self._given = None if gates is None else iter(gates)
        self._identity = identity

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in RECTIFIERS:
            return func(*args, **(kwargs or {}))
        x = args[0] if args else kwargs["input"]
        if self._identity:
            return x
        if self._given is not None:
            return x * next(self._given)
        self.open.append(x > 0)
        return func(*args, **(kwargs or {}))

"""The passes of a step as one compiled function: traced through all their derivatives, then given to `torch.compile`.

`torch.compile` alone cannot compile a gradient of a forward-mode derivative or of another gradient. So `make_fx` runs
the function once and writes down every operation, those of the derivatives too. What it wrote down takes no derivatives
any more, and compiles as the forward pass of any network does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from ntt_cli.kernels.product import Outputs, OutputsAndProduct, compute_outputs
from ntt_cli.methods.ntt.objective import Objective, TransferLoss
from ntt_cli.methods.ntt.step import StepBatch, transfer_gradients
from ntt_cli.networks.functional import BoundModel, FunctionalModel
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Masks, Params

OPTIONS: dict[str, Any] = {
    "fx_graph_cache": False,  # it reads pickles, which may run code
    "layout_optimization": False,  # weights have their best memory format already
    "compile_threads": 1,  # with more, worker processes would outlive an interruption
}

ON_CPU = {"max_fusion_size": 4}
"""As fast as with larger fusions, for two thirds of the memory on ResNet-20, and compiled in half the time."""


class CompilationError(RuntimeError):
    """A function could not be traced or compiled; the message is that of the original error."""


class Compiled:
    """A function of trees of tensors, compiled once for each kind of arguments.

    The kind is every tensor's shape, strides, type and device, and the argument `fixed`. The first call of each kind
    takes about a minute. Results agree with the function's up to rounding.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._made: dict[Any, Callable[..., Any]] = {}

    def __call__(self, fixed: Any, *trees: Any) -> Any:
        """`function(fixed, *trees)`, without a graph; `fixed` is hashable, and compiled in as a constant.

        The trees are tensors, or nested dicts and tuples of tensors, with the same keys whenever `fixed` is the same.

        Raises:
            CompilationError: if the function does what cannot be traced, or there is no compiler that works.
        """
        leaves: list[Tensor] = tree_leaves(trees)
        kind = (fixed, *((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves))
        if kind in self._made:
            with torch.no_grad():
                return self._made[kind](*trees)
        try:
            self._made[kind], results = _compile(partial(self._function, fixed), trees)
        except Exception as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            raise CompilationError(_reason(error)) from error
        return results


def _compile(function: Callable[..., Any], trees: tuple[Any, ...]) -> tuple[Callable[..., Any], Any]:
    """The compiled function, and its results."""
    traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*trees)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    on_cpu = all(leaf.device.type == "cpu" for leaf in tree_leaves(trees))
    compiled = torch.compile(traced, dynamic=False, options=OPTIONS | (ON_CPU if on_cpu else {}))
    # The cache of autograd also reads pickles.
    with torch.no_grad(), torch._functorch.config.patch(enable_autograd_cache=False):
        return compiled, compiled(*trees)


def _reason(error: BaseException) -> str:
    """The first line of the original error that does not only announce the next.

    Torch wraps its compilers' errors in advice to its own developers.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return next((line for line in lines if not line.endswith(":")), type(error).__name__)


class CompiledGradients:
    """`transfer_gradients` of a network, compiled, for one process that takes each half of a batch in one pass."""

    def __init__(self, model: FunctionalModel) -> None:
        self._model = model
        self._compiled = Compiled(self._gradients)

    def __call__(
        self,
        apply: BoundModel,
        params: Params,
        mask_bits: Masks,
        batch: StepBatch,
        *,
        density: float,
        objective: Objective,
        execution: Execution = Execution(),
    ) -> tuple[TransferLoss, Params]:
        """As `transfer_gradients`, where `apply` is the network bound to any buffers."""
        fixed, x = (objective, execution, apply.batch_statistics), _inputs(batch.x1, batch.x2, batch.probe)
        now = next(iter(params.values())).new_tensor(density)  # a tensor: as a number it would be compiled in
        parts, gradients = self._compiled(fixed, params, mask_bits, apply.buffers, x, _parts(batch.teacher), now)
        return TransferLoss(**{field.name: parts.get(field.name) for field in fields(TransferLoss)}), gradients

    def _gradients(
        self,
        fixed: tuple[Objective, Execution, bool],
        params: Params,
        mask_bits: Masks,
        buffers: Params,
        x: dict[str, Any],
        teacher: Params,
        density: Tensor,
    ) -> tuple[Params, Params]:
        objective, execution, batch_statistics = fixed
        batch = StepBatch(x["x1"], x["x2"], x.get("probe"), _as_outputs(teacher))
        apply = self._model.bind(buffers, batch_statistics=batch_statistics)
        loss, gradients = transfer_gradients(
            apply, params, mask_bits, batch, density=density, objective=objective, execution=execution
        )
        return _parts(loss), gradients


class CompiledOutputs:
    """`compute_outputs` of a network, compiled, for one process that takes each half of a batch in one pass."""

    def __init__(self, model: FunctionalModel) -> None:
        self._model = model
        self._compiled = Compiled(self._outputs)

    def __call__(self, apply: BoundModel, params: Params, x1: Any, x2: Any, probe: Tensor | None) -> Outputs:
        """As `compute_outputs`, where `apply` is the network bound to any buffers."""
        return _as_outputs(self._compiled(None, params, apply.buffers, _inputs(x1, x2, probe)))

    def _outputs(self, fixed: None, params: Params, buffers: Params, x: dict[str, Any]) -> Params:
        return _parts(compute_outputs(self._model.bind(buffers), params, x["x1"], x["x2"], x.get("probe")))


def _inputs(x1: Any, x2: Any, probe: Tensor | None) -> dict[str, Any]:
    return {"x1": x1, "x2": x2} | ({} if probe is None else {"probe": probe})


def _parts(whole: Outputs | TransferLoss) -> Params:
    """The fields of a dataclass by name, without those that are `None`: compiled functions take and return dicts."""
    values = {field.name: getattr(whole, field.name) for field in fields(whole)}
    return {name: value for name, value in values.items() if value is not None}


def _as_outputs(parts: Params) -> Outputs:
    return OutputsAndProduct(**parts) if "product" in parts else Outputs(**parts)

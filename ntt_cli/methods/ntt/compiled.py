"""The passes of a step as one compiled function: traced through all their derivatives, then given to `torch.compile`.

`torch.compile` by itself differentiates neither forward-mode derivatives nor what has been differentiated. What is
traced has no derivatives left in it, only operations: it compiles as the forward pass of any network does.
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

from ntt_cli.kernels.product import Answers, KernelProduct, answers
from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.step import Form, transfer_gradients
from ntt_cli.networks.functional import BoundModel, FunctionalModel
from ntt_cli.tensors import Apply, Masks, Params

OPTIONS: dict[str, Any] = {
    "fx_graph_cache": False,  # it is of pickles
    "layout_optimization": False,  # weights lie as they should already
    "compile_threads": 1,  # in this process: others would outlive an interruption
}

ON_CPU = {"max_fusion_size": 4}
"""As fast as with more, and less is held for long: two thirds of the memory on ResNet-20, compiled in half the time."""


class CompilationError(RuntimeError):
    """A function could not be traced or compiled, in the words of what failed."""


class Compiled:
    """A function of trees of tensors, compiled for each kind of arguments: shapes, layouts, types, what is fixed.

    The first call of a kind takes a minute or so. Numbers agree with those of the function up to rounding.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._made: dict[Any, Callable[..., Any]] = {}

    def __call__(self, fixed: Any, *trees: Any) -> Any:
        """`function(fixed, *trees)`, without a graph.

        Args:
            fixed: hashable.
            trees: dicts of tensors, with the same keys whenever `fixed` is the same, or tensors.

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
    # Its other cache is of pickles, too.
    with torch.no_grad(), torch._functorch.config.patch(enable_autograd_cache=False):
        return compiled, compiled(*trees)


def _reason(error: BaseException) -> str:
    """The first line of what it began with; torch wraps its compilers' errors, with advice to its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class CompiledGradients:
    """`transfer_gradients` of a network, compiled, for whole batches."""

    def __init__(self, model: FunctionalModel) -> None:
        self._model = model
        self._compiled = Compiled(self._gradients)

    def __call__(
        self,
        apply: Apply,
        params: Params,
        mask_bits: Masks,
        x1: Tensor,
        x2: Tensor,
        *,
        probe: Tensor | None,
        teacher: Answers,
        density: float,
        form: Form,
    ) -> tuple[TransferLoss, Params]:
        """As there, `apply` being the network at any buffers."""
        assert isinstance(apply, BoundModel)
        now = next(iter(params.values())).new_tensor(density)
        parts, gradients = self._compiled(
            form, params, mask_bits, apply.buffers, _batch(x1, x2, probe), _parts(teacher), now
        )
        return TransferLoss(**{field.name: parts.get(field.name) for field in fields(TransferLoss)}), gradients

    def _gradients(
        self,
        form: Form,
        params: Params,
        mask_bits: Masks,
        buffers: Params,
        batch: Params,
        teacher: Params,
        density: Tensor,
    ) -> tuple[Params, Params]:
        loss, gradients = transfer_gradients(
            self._model.bind(buffers),
            params,
            mask_bits,
            batch["x1"],
            batch["x2"],
            probe=batch.get("probe"),
            teacher=_as_answers(teacher),
            density=density,
            form=form,
        )
        return _parts(loss), gradients


class CompiledAnswers:
    """`answers` of a network, compiled, for whole batches."""

    def __init__(self, model: FunctionalModel) -> None:
        self._model = model
        self._compiled = Compiled(self._answers)

    def __call__(self, apply: Apply, params: Params, x1: Tensor, x2: Tensor, probe: Tensor | None) -> Answers:
        """As there, `apply` being the network at any buffers."""
        assert isinstance(apply, BoundModel)
        return _as_answers(self._compiled(None, params, apply.buffers, _batch(x1, x2, probe)))

    def _answers(self, fixed: None, params: Params, buffers: Params, batch: Params) -> Params:
        return _parts(answers(self._model.bind(buffers), params, batch["x1"], batch["x2"], batch.get("probe")))


def _batch(x1: Tensor, x2: Tensor, probe: Tensor | None) -> Params:
    return {"x1": x1, "x2": x2} | ({} if probe is None else {"probe": probe})


def _parts(whole: Answers | TransferLoss) -> Params:
    """The tensors that a dataclass is made of."""
    values = {field.name: getattr(whole, field.name) for field in fields(whole)}
    return {name: value for name, value in values.items() if value is not None}


def _as_answers(parts: Params) -> Answers:
    return KernelProduct(**parts) if "product" in parts else Answers(**parts)

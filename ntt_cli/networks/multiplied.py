"""Which parameters a network multiplies its inputs by, and which it looks up or adds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ntt_cli.data.batch import Batch, tensors_of
from ntt_cli.tensors import Apply, Params

_ATEN = torch.ops.aten
FACTORS = {
    **dict.fromkeys((_ATEN.mm, _ATEN.bmm, _ATEN.mv, _ATEN.convolution, _ATEN._convolution), slice(0, 2)),
    **dict.fromkeys((_ATEN.addmm, _ATEN.addmv, _ATEN.baddbmm, _ATEN.addbmm), slice(1, 3)),
    _ATEN._trilinear: slice(0, 3),
}
"""The multiplied arguments of each matrix product and convolution."""

_LOOKUPS = {_ATEN.index, _ATEN.index_select, _ATEN.embedding, _ATEN.gather, _ATEN.take}
"""Operations that take entries of a table by their indices."""


def multiplied_parameters(apply: Apply, params: Params, x: Batch) -> set[str]:
    """Names of parameters that the network multiplies by values that depend on `x`, in matrix products.

    A factor may also be computed from parameters alone. Two kinds of tables do not count: those that are added, and
    those in which entries are looked up, even if the entries are later multiplied, like relative positions by queries.
    """
    tracer = _Multiplications(params, x)
    tracer.watch(apply, params, x)
    return tracer.found


class Tracer(TorchDispatchMode):
    """Observes a forward pass: which values depend on the inputs `x`, and which are made of some parameters alone."""

    sources_end_at: Collection[Any] = ()
    """Operations whose results no longer count as made of parameters."""

    def __init__(self, params: Params, x: Batch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._made_of = {storage(p): frozenset({name}) for name, p in params.items()}
        self._of_inputs = {storage(part) for part in tensors_of(x)}
        self._alive: list[Any] = []  # so that the memory of a tracked value is not reused for another value

    def watch(self, apply: Apply, params: Params, x: Batch) -> None:
        """Run the network under observation."""
        # torch has different fused attention kernels, and formulas for them, on different devices.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), self:
            apply(params, x)

    def look(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Called after each operation, before its results are tracked."""

    def depends_on_inputs(self, value: Tensor) -> bool:
        """Whether the inputs take part in a value."""
        return storage(value) in self._of_inputs

    def parameters_in(self, value: Tensor) -> frozenset[str]:
        """The parameters that alone make a value; empty if inputs take part."""
        return frozenset() if self.depends_on_inputs(value) else self._made_of.get(storage(value), frozenset())

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.look(func.overloadpacket, args, kwargs, out)
        if not self._made_of:
            return out
        given = tensors((args, kwargs))
        names = frozenset[str]().union(*map(self.parameters_in, given))
        if func.overloadpacket in self.sources_end_at:
            names = frozenset()
        depends = any(map(self.depends_on_inputs, given))
        self._alive.append(out)
        for leaf in tensors(out):
            self._made_of[storage(leaf)] = names
            if depends:
                self._of_inputs.add(storage(leaf))
        return out


class _Multiplications(Tracer):
    """Finds the parameters by which values that depend on the inputs are multiplied."""

    sources_end_at = _LOOKUPS

    def __init__(self, params: Params, x: Batch) -> None:
        super().__init__(params, x)
        self.found: set[str] = set()

    def look(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        factors = tensors(args[FACTORS[operation]]) if operation in FACTORS else []
        if any(map(self.depends_on_inputs, factors)):
            self.found.update(*map(self.parameters_in, factors))


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    """Where a tensor's memory begins: the same for all views of it."""
    return tensor.untyped_storage().data_ptr()

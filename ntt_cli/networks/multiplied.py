"""Which parameters a network multiplies its inputs by, and which it looks up or adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ntt_cli.tensors import Apply, Params

_ATEN = torch.ops.aten
FACTORS = {
    _ATEN.mm: slice(0, 2),
    _ATEN.bmm: slice(0, 2),
    _ATEN.mv: slice(0, 2),
    _ATEN.addmm: slice(1, 3),
    _ATEN.addmv: slice(1, 3),
    _ATEN.baddbmm: slice(1, 3),
    _ATEN.addbmm: slice(1, 3),
    _ATEN.convolution: slice(0, 2),
    _ATEN._convolution: slice(0, 2),
    _ATEN._trilinear: slice(0, 3),
}
"""The multiplied arguments of each matrix product and convolution."""

_LOOKUPS = {_ATEN.index, _ATEN.index_select, _ATEN.embedding, _ATEN.gather, _ATEN.take}
"""Operations that take entries of a table by their indices."""


def multiplied_parameters(apply: Apply, params: Params, x: Shaped[Tensor, "n *features"]) -> set[str]:
    """Names of parameters that the network multiplies by values that depend on `x`, in matrix products.

    A factor may also be computed from parameters alone. Two kinds of tables do not count: those that are added, and
    those in which entries are looked up, even if the entries are later multiplied, like relative positions by queries.
    """
    tracer = _Tracer(params, x)
    # torch has different fused attention kernels for different devices.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), tracer:
        apply(params, x)
    return tracer.found


class _Tracer(TorchDispatchMode):
    def __init__(self, params: Params, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.found: set[str] = set()
        self._made_of = {_storage(p): {name} for name, p in params.items()}
        self._from_inputs = {_storage(x)}
        self._held: list[Any] = []  # so that no other tensor reuses the memory

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._held.append(result)
        given = [_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if (factors := FACTORS.get(func.overloadpacket)) is not None:
            multiplied = [_storage(factor) for factor in args[factors] if isinstance(factor, Tensor)]
            if any(factor in self._from_inputs for factor in multiplied):
                for factor in multiplied:
                    self.found |= self._made_of.get(factor, set())
        depends = any(one in self._from_inputs for one in given)
        names = set[str]().union(*(self._made_of.get(one, set()) for one in given))
        if func.overloadpacket in _LOOKUPS:
            names.clear()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                made = _storage(leaf)
                if depends:
                    self._from_inputs.add(made)
                    self._made_of.pop(made, None)
                elif names:
                    self._made_of[made] = self._made_of.get(made, set()) | names
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

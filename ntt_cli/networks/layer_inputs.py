"""What goes into each layer of a network, for methods that prune layer by layer.

A layer here is a weight that acts through `F.linear`, `F.conv1d`, `conv2d` or `conv3d`, or as the right factor of a
matrix product. At each position `t` its outputs are `W x_t`, with the weight as a matrix and the inputs unfolded. A
convolution in groups is one such layer for each of its groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from ntt_cli.data.batch import Batch
from ntt_cli.networks.layer_calls import graph_nodes
from ntt_cli.tensors import Apply, Params


@dataclass(frozen=True)
class Layout:
    """How a weight is a matrix, `[groups, outputs, inputs]`.

    Attributes:
        groups: their number; 1 but for convolutions in groups.
        transposed: the weight is `[inputs, outputs]`.
        uses: how often the network uses it for one batch.
        order: of the columns, where it is another than that of the weight's entries.
    """

    groups: int
    transposed: bool
    uses: int
    order: Int[Tensor, " inputs"] | None = None

    def by_position(self, weight: Tensor) -> Layout:
        """The same with all input channels at one position of the kernel first, then those at the next.

        Consecutive inputs of the weight then are consecutive columns, as they are in a Linear layer.
        """
        if self.transposed or weight.ndim == 2:
            return self
        columns = torch.arange(weight[0].numel(), device=weight.device)
        return replace(self, order=columns.unflatten(0, (weight.shape[1], -1)).T.flatten())

    def columns(self, values: Shaped[Tensor, "... i"]) -> Shaped[Tensor, "... i"]:
        """Inputs, or rows of a weight or a mask, in the order of the columns."""
        return values if self.order is None else values[..., self.order]

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as `[g, o, i]`."""
        return self.columns(weight.T[None] if self.transposed else weight.flatten(1).unflatten(0, (self.groups, -1)))

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """`[g, o, i]` in the shape of the weight `like`."""
        if self.order is not None:
            matrix = matrix[..., self.order.argsort()]
        return matrix[0].T.contiguous() if self.transposed else matrix.reshape(like.shape)


def layers_in_order(apply: Apply, params: Params, names: Collection[str], x: Batch) -> dict[str, Layout]:
    """The layers among the named weights, in the order in which the network uses them for a batch.

    Weights that also act in other ways, and those that this batch does not reach, are left out.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad(), _Recorder({name: leaves[name] for name in names}) as recorder:
        outputs = apply(leaves, x)
    uses = Counter(parent for node in graph_nodes(outputs) for parent, _ in node.next_functions)
    layouts = {}
    for name, kinds in recorder.kinds.items():
        if len(kinds) == uses[get_gradient_edge(leaves[name]).node] and len(set(kinds)) == 1:
            groups, transposed = kinds[0]
            layouts[name] = Layout(groups, transposed, len(kinds))
    return layouts


def layer_inputs(
    apply: Apply, params: Params, name: str, layout: Layout, x: Batch
) -> list[Float[Tensor, "groups positions inputs"]]:
    """The inputs of each use of a layer for a batch, without positions that an `attention_mask` says are padding.

    The network runs no further than the layer, if it uses it once.
    """
    recorder = _Recorder({name: params[name]}, keep=True, last=layout.uses == 1)
    if isinstance(x, dict) and "attention_mask" in x:
        recorder.counts = x["attention_mask"].bool()
    with torch.no_grad():
        try:
            with recorder:
                apply(params, x)
        except _Reached:
            pass
    return recorder.inputs


class _Reached(BaseException):
    """Ends a forward pass. It is no `Exception`, which networks may catch."""


class _Recorder(TorchFunctionMode):
    """Observes the calls that multiply by these weights, including calls by layers.

    Attributes:
        kinds: the groups of each call, and whether its weight is transposed, by weight in the order of first calls.
        inputs: what each call multiplied, `[g, t, i]`, if `keep`.
        counts: which positions of which samples are no padding, `[n, positions]`.
    """

    def __init__(self, weights: Params, *, keep: bool = False, last: bool = False) -> None:
        super().__init__()
        self.kinds: dict[str, list[tuple[int, bool]]] = {}
        self.inputs: list[Tensor] = []
        self.counts: Tensor | None = None
        self._keep, self._last = keep, last
        self._names = {id(weight): name for name, weight in weights.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if (observe := _OBSERVERS.get(func)) is not None:
            observe(self, *args, **named)
        return func(*args, **named)

    def add(self, weight: object, *, transposed: bool, groups: int = 1, inputs: Callable[[], Tensor]) -> None:
        """Note a call, if it is of one of the weights."""
        if (name := self._names.get(id(weight))) is None:
            return
        self.kinds.setdefault(name, []).append((groups, transposed))
        if self._keep:
            self.inputs.append(inputs())
        if self._last:
            raise _Reached

    def rows(self, x: Tensor) -> Tensor:
        """`[..., i]` as `[1, t, i]`, without padding."""
        counts = self.counts
        if counts is not None and counts.shape == x.shape[:-1] and x.ndim > 2:
            return x[counts][None]
        flat = x.reshape(1, -1, x.shape[-1])
        # Some networks put all positions of all samples into one axis before they multiply.
        if counts is not None and x.ndim == 2 and len(x) == counts.numel() > len(counts):
            return flat[:, counts.flatten()]
        return flat


def _linear(recorder: _Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    if weight.ndim == 2:
        recorder.add(weight, transposed=False, inputs=lambda: recorder.rows(input))


def _matmul(recorder: _Recorder, input: Tensor, other: Tensor, *, out: Tensor | None = None) -> None:
    if isinstance(other, Tensor) and other.ndim == 2:
        recorder.add(other, transposed=True, inputs=lambda: recorder.rows(input))


def _addmm(recorder: _Recorder, input: Tensor, mat1: Tensor, mat2: Tensor, *, alpha: float = 1, **others: Any) -> None:
    if alpha == 1:
        _matmul(recorder, mat1, mat2)


def _convolution(
    recorder: _Recorder,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    def patches() -> Tensor:
        return unfolded(input, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)

    recorder.add(weight, transposed=False, groups=groups, inputs=patches)


def unfolded(
    x: Float[Tensor, "..."],
    weight: Float[Tensor, "c_out c_each *kernel"],
    *,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Float[Tensor, "groups t i"]:
    """The patches that a convolution of one to three dimensions multiplies, `c_each · Π kernel` numbers each."""
    kernel = weight.shape[2:]
    steps, holes = _each(stride, len(kernel)), _each(dilation, len(kernel))
    spans = [hole * (size - 1) for hole, size in zip(holes, kernel, strict=True)]
    if padding == "same":
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        sides = [(width, width) for width in _each(0 if isinstance(padding, str) else padding, len(kernel))]
    x = F.pad(x if x.ndim == weight.ndim else x[None], [width for side in reversed(sides) for width in side])
    for axis, (span, step, hole) in enumerate(zip(spans, steps, holes, strict=True), start=2):
        x = x.unfold(axis, span + 1, step)[..., ::hole]
    x = x.unflatten(1, (groups, -1))  # [n, g, c_each, *positions, *kernel]
    places = range(3, 3 + len(kernel))
    of_kernel = range(3 + len(kernel), 3 + 2 * len(kernel))
    return x.permute(1, 0, *places, 2, *of_kernel).reshape(groups, -1, weight[0].numel())


def _each(value: int | Sequence[int], axes: int) -> list[int]:
    """One number for each axis, from one for all or from one each."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * axes if len(numbers) == 1 else numbers


_OBSERVERS: dict[Any, Callable[..., None]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d], _convolution),
    **dict.fromkeys([torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__], _matmul),
}

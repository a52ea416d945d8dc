"""How a network uses its weights: which act only through linear, conv2d or embedding operations, and on which inputs.

The calls of these operations are observed. This covers tied weights, layers that are used twice, and calls of the
functions themselves. Edges in the autograd graph show which weights are also used in other ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from ntt_cli.data.batch import Batch
from ntt_cli.tensors import Apply, Params


@dataclass(frozen=True)
class LayerCall:
    """One use of a weight at each position `t` of each sample.

    The use is `outputs[t,o] = Σ_i inputs[t,i] weight[o,i] + ...`, in an embedding `outputs[t,o] = weight[inputs[t],o]`.

    Attributes:
        positions: their number, over all samples.
        inputs: returns a Linear layer's inputs or a convolution's patches, `[t, i]`, or an embedding's row numbers,
            `[t]`, with -1 for its padding, which has no gradient.
        output: the edge in the autograd graph at which to take the gradient of the layer's output.
        channel_axis: the axis `o` of that gradient, counted from the end; all others are positions.
        embeds: whether this is an embedding.
    """

    positions: int
    inputs: Callable[[], Tensor]
    output: GradientEdge
    channel_axis: int
    embeds: bool = False

    def arrange(self, grad: Tensor) -> Float[Tensor, "t o"]:
        """The gradient at `output` as `[t, o]`, one row for each position."""
        return grad.movedim(self.channel_axis, -1).reshape(self.positions, grad.shape[self.channel_axis])


@dataclass(frozen=True)
class RecordedPass:
    """A recorded forward pass of one batch.

    Attributes:
        logits: `[n, c]`, with its graph.
        calls: all uses of each parameter in that graph. Parameters that are also used in other ways, or both as a layer
            and as an embedding, are left out.
    """

    logits: Tensor
    calls: dict[str, list[LayerCall]]

    def output_layers(self) -> set[str]:
        """The weights of the last layers: no other recorded weight acts between their products and the logits."""
        made = {call.output.node: name for name, calls in self.calls.items() for call in calls}
        return {made[node] for node in graph_nodes(self.logits, up_to=made) if node in made}


def record_calls(apply: Apply, leaves: Params, x: Batch) -> RecordedPass:
    """Run the network and record how it uses its weights, leaves that require a gradient."""
    with torch.enable_grad(), _CallRecorder(leaves) as recorder:
        logits = apply(leaves, x)
    nodes = graph_nodes(logits)
    uses = Counter(parent for node in nodes for parent, _ in node.next_functions)
    calls = {name: [call for call in made if call.output.node in nodes] for name, made in recorder.calls.items()}
    complete = {
        name: made
        for name, made in calls.items()
        if len(made) == uses[get_gradient_edge(leaves[name]).node] and len({call.embeds for call in made}) <= 1
    }
    return RecordedPass(logits=logits, calls=complete)


class _CallRecorder(TorchFunctionMode):
    """Observes each call of `F.linear`, `F.conv2d` and `F.embedding`, including calls by layers."""

    def __init__(self, leaves: Params) -> None:
        super().__init__()
        self.calls: dict[str, list[LayerCall]] = {name: [] for name in leaves}
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._observers: dict[Any, Any] = {F.linear: self._linear, F.conv2d: self._conv2d, F.embedding: self._embedding}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (observe := self._observers.get(func)) is not None:
            observe(result, *args, **(kwargs or {}))
        return result

    def _linear(self, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        if weight.dim() != 2:
            return
        values = input.detach()
        self._add(weight, result, lambda: values.reshape(-1, weight.shape[1]), channel_axis=-1)

    def _conv2d(
        self,
        result: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        if groups > 1 or isinstance(padding, str):
            return
        values = input.detach()

        def patches() -> Tensor:
            columns = F.unfold(values, weight.shape[2:], dilation=dilation, padding=padding, stride=stride)
            return columns.transpose(-2, -1).reshape(-1, weight[0].numel())

        self._add(weight, result, patches, channel_axis=-3)

    def _embedding(
        self,
        result: Tensor,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> None:
        if scale_grad_by_freq:
            return
        rows = input.flatten().long()
        if padding_idx is not None:
            rows = rows.masked_fill(rows == padding_idx % len(weight), -1)
        self._add(weight, result, lambda: rows, channel_axis=-1, embeds=True)

    def _add(
        self, weight: Tensor, result: Tensor, inputs: Callable[[], Tensor], *, channel_axis: int, embeds: bool = False
    ) -> None:
        name = self._names.get(id(weight))
        if name is not None and result.requires_grad:
            # Take the edge now: an in-place activation later changes what `result` refers to.
            output = get_gradient_edge(result)
            positions = result.numel() // result.shape[channel_axis]
            self.calls[name].append(LayerCall(positions, inputs, output, channel_axis, embeds))


def graph_nodes(logits: Tensor, *, up_to: Collection[Node] = ()) -> set[Node]:
    """All nodes of the graph that the logits depend on, without those behind the nodes `up_to`."""
    seen: set[Node] = set()
    waiting = [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if node not in up_to:
                waiting.extend(parent for parent, _ in node.next_functions)
    return seen

"""The affinity: a factor of the score, for inputs of a unit that vary as the input of its strongest weight does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.networks.layer_calls import RecordedPass, record_calls
from ntt_cli.tensors import Apply, Params

FEW = 10.0
"""Units with so few inputs get no affinity: each of their inputs should carry other information."""

AT_ONCE = 2**24
"""Numbers of a layer's inputs that are in memory at one time: 64 MiB."""


def strongest(layers: int) -> float:
    """The largest exponent, of `L` layers, at least two: 10, and in all at most 30 over the `L − 1` before the last.

    Deep networks become less accurate if the inputs of every unit vary together (docs/notebook/20-inputs-alike.md).
    An exponent below 1 is not worth the cost of the correlations, and becomes 0.
    """
    exponent = min(10.0, 30.0 / max(1, layers - 1))
    return exponent if exponent >= 1 else 0.0


def affinity_exponent(kept_per_unit: float, *, most: float) -> float:
    """`β = k − 10`, at least 0 and at most `most`, of a layer whose units keep `k` inputs on average.

    A unit whose inputs vary together sees one feature; of an image, one place. With enough weights such units are
    better than units whose inputs are anywhere; with few weights they are worse (docs/notebook/20-inputs-alike.md).
    """
    return min(max(kept_per_unit - FEW, 0.0), most)


def affinity(correlations: Tensor, *, exponent: float) -> Tensor:
    """`exp(−β (1 − r))`: the factor of a weight's score.

    Args:
        correlations: `r`, of `input_correlations`.
        exponent: `β`.
    """
    return (correlations - 1).mul_(exponent).exp_()


def input_correlations(
    apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Float[Tensor, "o *i"]]:
    """How each input of a unit correlates with that of the unit's strongest weight, over samples and positions.

    Only for weights of Linear and Conv2d layers. The layers that compute the logits are left out too: they should see
    all features. An input that does not vary correlates with nothing but itself.

    Args:
        apply: the network.
        params: its parameters; the strongest weight of a unit is that of largest magnitude, ties by lowest index.
        names: the weights, `[o, i...]`.
        batches: unlabelled inputs; they are split where the inputs of a layer would take much memory.

    Returns:
        `r`, from -1 to 1, by weight.
    """
    moments: dict[str, _Moments] = {}
    asked: list[str] | None = None
    for recorded in _passes(apply, params, names, batches):
        if asked is None:
            output_layers = recorded.output_layers()
            asked = [name for name in names if name not in output_layers]
        for name in asked:
            for call in recorded.calls.get(name, []):
                if call.embeds:
                    continue
                rows = call.inputs()
                if name not in moments:
                    moments[name] = _Moments(rows, params[name].detach().flatten(1).abs().argmax(dim=1))
                moments[name].add(rows)
    return {name: moments.pop(name).correlations().view(params[name].shape) for name in list(moments)}


def _passes(apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Tensor]) -> Iterator[RecordedPass]:
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    at_once = 1
    for x in batches:
        for part in x.split(at_once):
            recorded = record_calls(apply, leaves, part)
            yield recorded
        calls = ((params[name][0].numel(), call) for name in names for call in recorded.calls.get(name, []))
        sizes = [size * call.positions // len(part) for size, call in calls]
        at_once = max(1, AT_ONCE // max(sizes, default=AT_ONCE))


class _Moments:
    """Sums over rows of inputs, minus the mean of the first rows, so that large means cost no precision."""

    def __init__(self, rows: Float[Tensor, "t i"], strongest: Tensor) -> None:
        self._strongest, self._origin = strongest, rows.mean(dim=0)
        self._count = 0
        self._sum = torch.zeros_like(self._origin)
        self._squares = torch.zeros_like(self._origin)
        self._products = rows.new_zeros(len(strongest), rows.shape[1])

    def add(self, rows: Float[Tensor, "t i"]) -> None:
        rows = rows - self._origin
        self._count += len(rows)
        self._sum += rows.sum(dim=0)
        self._squares += rows.square().sum(dim=0)
        self._products.addmm_(rows[:, self._strongest].T, rows)

    def correlations(self) -> Float[Tensor, "o i"]:
        """The correlations, computed in the memory of the sums."""
        mean = self._sum / self._count
        variance = (self._squares / self._count - mean.square()).clamp_min(0)
        rounding = (self._origin + mean).square() * 1e-10
        deviation = variance.sqrt().masked_fill(variance <= rounding, torch.inf)
        covariance = self._products.div_(self._count).addr_(mean[self._strongest], mean, alpha=-1)
        found = covariance.div_(deviation[self._strongest][:, None]).div_(deviation).clamp_(-1, 1)
        return found.scatter_(1, self._strongest[:, None], 1.0)

"""The affinity: a factor of the score by which units prefer inputs that vary together. It is not in the paper.

Each unit has a strongest weight, that of largest magnitude. Let `r` be the correlation, over samples, of an input of
the unit with the strongest weight's input. The score of the input's weight is multiplied by `exp(−β (1 − r))`. On
images such units see one place each, although nobody told the network which inputs are neighbours
(docs/notebook/20-inputs-alike.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ntt_cli.data.batch import Batch, split
from ntt_cli.methods.snip import leaves_of
from ntt_cli.networks.layer_calls import RecordedPass, record_calls
from ntt_cli.tensors import Apply, Params

FEW_INPUTS = 10.0
"""Units that keep so few inputs or fewer get no affinity: each of their inputs should carry other information."""

NUMBERS_AT_ONCE = 2**24
"""Numbers of one layer's inputs that are in memory at a time: 64 MiB of single precision."""


def largest_affinity_exponent(layers: int) -> float:
    """The largest `β`, for `L` layers: `min(10, 30 / (L − 1))`, and 0 where that is below 1.

    The exponents of the `L − 1` layers before the last sum to 30 at most: deep networks become less accurate if the
    inputs of every unit vary together (docs/notebook/20-inputs-alike.md). An exponent below 1 is not worth the cost of
    the correlations.
    """
    exponent = min(10.0, 30.0 / max(1, layers - 1))
    return exponent if exponent >= 1 else 0.0


def affinity_exponent(kept_per_unit: float, *, most: float) -> float:
    """`β = k − 10`, at least 0 and at most `most`, for a layer whose units keep `k` inputs on average.

    Units whose inputs vary together are better where they have many weights, and worse where they have few
    (docs/notebook/20-inputs-alike.md).
    """
    return min(max(kept_per_unit - FEW_INPUTS, 0.0), most)


def affinity(correlations: Tensor, *, exponent: float) -> Tensor:
    """`exp(−β (1 − r))`: the factor of a weight's score, by the `r` of `input_correlations` and the exponent `β`."""
    return (correlations - 1).mul_(exponent).exp_()


def input_correlations(
    apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Batch]
) -> dict[str, Float[Tensor, "o *i"]]:
    """`r` by weight: how each input of a unit correlates with its strongest weight's, over samples and positions.

    Weights that act in another way than in Linear and Conv2d layers are left out. So are the layers that compute the
    logits: they should see all features. The correlation with an input that does not vary is 0, that of the strongest
    weight's input with itself 1. The strongest weight has the largest magnitude, ties by lowest index. Batches are
    split where the inputs of a layer would take much memory.
    """
    moments: dict[str, _Moments] = {}
    hidden: list[str] | None = None
    for recorded in _passes(apply, params, names, batches):
        if hidden is None:
            output_layers = recorded.output_layers()
            hidden = [name for name in names if name not in output_layers]
        for name in hidden:
            for call in recorded.calls.get(name, []):
                if call.embeds:
                    continue
                rows = call.inputs()
                if name not in moments:
                    moments[name] = _Moments(rows, params[name].detach().flatten(1).abs().argmax(dim=1))
                moments[name].add(rows)
    return {name: moments.pop(name).correlations().view(params[name].shape) for name in list(moments)}


def _passes(apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Batch]) -> Iterator[RecordedPass]:
    """Forward passes over all batches, recorded. One of one sample shows before how many samples fit into memory.

    Yields:
        what each pass recorded.
    """
    leaves, at_once = leaves_of(params), 0
    for x in batches:
        if not at_once:
            calls = record_calls(apply, leaves, split(x, 1)[0]).calls
            numbers = (params[name][0].numel() * call.positions for name in names for call in calls.get(name, []))
            at_once = max(1, NUMBERS_AT_ONCE // max(numbers, default=1))
        for part in split(x, at_once):
            yield record_calls(apply, leaves, part)


class _Moments:
    """Sums over rows of a layer's inputs, one row a sample and position.

    The mean of the first rows, the origin, is subtracted from all rows, so that large means cost no precision.
    """

    def __init__(self, rows: Float[Tensor, "t i"], strongest: Int[Tensor, "o"]) -> None:
        """Sums of nothing yet, for the first rows and the index of each unit's strongest weight's input."""
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
        # A variance so small beside the mean is rounding. An infinite deviation makes the correlation 0.
        rounding = (self._origin + mean).square() * 1e-10
        deviation = variance.sqrt().masked_fill(variance <= rounding, torch.inf)
        covariance = self._products.div_(self._count).addr_(mean[self._strongest], mean, alpha=-1)
        found = covariance.div_(deviation[self._strongest][:, None]).div_(deviation).clamp_(-1, 1)
        return found.scatter_(1, self._strongest[:, None], 1.0)

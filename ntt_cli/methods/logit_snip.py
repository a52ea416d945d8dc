"""SNIP without labels: how much the size of the logits depends on each weight. Liu & Zenke 2020, arXiv 2006.08228."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.methods.base import Method, MethodContext, register_method
from ntt_cli.methods.snip import weight_times_gradient
from ntt_cli.networks.functional import with_equal_heads
from ntt_cli.tensors import Apply, Masks, Params


@register_method("logit-snip")
class LogitSnip(Method):
    """`|w · ∂R/∂w|` for the mean squared norm `R` of the logits, in one round."""

    reads = frozenset({"batch_size"})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        outputs = partial(context.apply, context.params)
        apply = with_equal_heads(context.apply, context.teacher.heads, lambda: outputs(next(context.batches())))
        return logit_snip_scores(apply, context.masked(masks), context.names, context.batches())


def logit_snip_scores(
    apply: Apply, params: Params, names: Sequence[str], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """`|w · ∂R/∂w|` with `R = ½ E‖f(x)‖²`: SNIP without labels, after the baseline of Liu & Zenke 2020."""

    def losses(at: Params) -> Iterator[tuple[Tensor, int]]:
        return ((apply(at, x).square().sum() / (2 * batch_size(x)), batch_size(x)) for x in batches)

    return weight_times_gradient(params, names, losses)

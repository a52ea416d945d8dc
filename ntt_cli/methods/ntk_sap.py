"""NTK-SAP: the effect of each mask entry on the trace of the kernel, over random weights. Wang et al. 2023."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, batch_size
from ntt_cli.masks.masks import apply_masks
from ntt_cli.methods.base import ROUNDS, Method, MethodContext, register_method
from ntt_cli.methods.snip import gradients_of
from ntt_cli.networks.batch_norm import estimate_statistics
from ntt_cli.networks.functional import with_equal_heads
from ntt_cli.tensors import Apply, Masks, Params


@register_method("ntk-sap")
class NTKSAP(Method):
    """The derivative of the kernel's trace with respect to the mask, over random weights, in 100 rounds."""

    needs = "shape"
    rounds = ROUNDS
    reads = frozenset({"batch_size"})

    def scores(self, context: MethodContext, masks: Masks) -> dict[str, Tensor]:
        """`ntk_sap_scores` of one draw of random weights and inputs a round.

        Statistics of batch norm are those of this draw under the masks, as in the authors' code: the teacher's belong
        to other weights.
        """
        params, x = context.reinitialised()
        teacher = context.teacher
        buffers = estimate_statistics(teacher, apply_masks(params, masks), teacher.buffers, [x])
        plain = teacher.bind(buffers)
        apply = with_equal_heads(plain, teacher.heads, lambda: plain(params, x))
        return ntk_sap_scores(apply, masks, [(params, x)], generator=context.generator)


def ntk_sap_scores(
    apply: Apply,
    masks: Masks,
    draws: Iterable[tuple[Params, Batch]],
    *,
    perturbation: float = 1e-2,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """`|∂/∂m E‖f(x; m ⊙ θ) − f(x; m ⊙ (θ + Δθ))‖²|` over random `θ` and `Δθ ~ N(0, ε²)`.

    For small `ε` the difference is `J Δθ`, whose squared norm is `ε²` times the kernel's trace in expectation. The
    masked weights alone are perturbed. Meant for several rounds. Wang et al. 2023, arXiv 2304.02840.

    The score of a pruned entry is zero. Each draw is freshly initialised parameters `θ` and a batch of inputs. The
    authors' inputs are Gaussian. On real images, with their constant borders, the layers' shares are far from theirs.
    """
    total = {name: torch.zeros(mask.shape, device=mask.device) for name, mask in masks.items()}
    for params, x in draws:
        numbers = {name: mask.to(params[name]).requires_grad_() for name, mask in masks.items()}
        shift = {
            name: torch.randn(mask.shape, generator=generator, device=generator.device).to(params[name])
            for name, mask in masks.items()
        }
        moved = params | {name: params[name] + perturbation * shift[name] for name in masks}
        with torch.enable_grad():
            gap = apply(_products(params, numbers), x) - apply(_products(moved, numbers), x)
            gradients = gradients_of(gap.square().sum() / batch_size(x), numbers, numbers)
        for name, gradient in gradients.items():
            total[name] += gradient
    return {name: value.abs() * masks[name] for name, value in total.items()}


def _products(params: Params, numbers: Params) -> Params:
    return params | {name: params[name] * m for name, m in numbers.items()}

"""Which parameters may be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ntt_cli.core.functional import FunctionalModel

_NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def prunable_names(model: FunctionalModel, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the weights that may be pruned, in the model's order.

    Those are the trainable parameters with two or more dimensions. Biases and the parameters of normalisation layers
    are never pruned, nor is a vector in the shape of a matrix, such as a class token `[1, 1, d]`.

    Args:
        model: the network.
        exclude: shell patterns (`*`, `?`, `[…]`) of names to leave dense.
    """
    normalisation = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.module.named_modules()
        if isinstance(module, _NORMALISATION)
        for name, _ in module.named_parameters(recurse=False)
    }
    return tuple(
        name
        for name, p in model.params.items()
        if _is_matrix(name, p)
        and name not in normalisation
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    )


def _is_matrix(name: str, p: Tensor) -> bool:
    if p.ndim < 2 or not p.is_floating_point():
        return False
    return sum(size > 1 for size in p.shape) >= 2 or name.rsplit(".", 1)[-1] == "weight"

"""Which outputs count: `output_mask(batch)` of the user's own, beside the rule for `attention_mask`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ntt_cli.errors import ModelError

OutputMask = Callable[[Any], Any]
"""Gives, for what a network takes, a bool tensor of the outputs' first axes, or a dict of such by the names of outputs.

An output counts where it is `True`."""

HINT = "return a bool tensor of the first axes of the outputs, such as batch['lengths'][:, None] > torch.arange(t)"


def mask_of(function: OutputMask | None, x: Any, name: str, head: Tensor) -> Tensor | None:
    """Where a head counts, in a shape that can be broadcast to it; `None` if all of it does.

    By the function, or without one by an input `attention_mask`, `[n, *positions]`, if the head has these positions.
    """
    if function is not None:
        return mask_from(function, x, name, head)
    mask = x.get("attention_mask") if isinstance(x, dict) else None
    return None if mask is None or head.ndim < 3 or mask.shape != head.shape[:-1] else mask.bool()[..., None]


def mask_from(function: OutputMask, x: Any, name: str, head: Tensor) -> Tensor | None:
    """The mask of a head, in a shape that can be broadcast to it; `None` if a dict of masks has none for it.

    Raises:
        ModelError: if the function fails, or its mask is no bool tensor or does not fit the head.
    """
    try:
        given = function(x)
    except (Exception, SystemExit) as error:
        what = f"raised {type(error).__name__}: {error}"
        raise ModelError(
            "output_mask(batch)", what, hint="mend that function; it is given what the network takes"
        ) from error
    mask = given.get(name) if isinstance(given, Mapping) else given
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = f"a tensor of type {mask.dtype}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise ModelError("output_mask(batch)", f"returns {kind.replace('torch.', '')}, not a bool tensor", hint=HINT)
    if mask.ndim > 2 and mask.shape == (*head.shape[:1], *head.shape[2:]) != head.shape[:-1]:
        mask = mask[:, None]  # of the places of maps [n, c, h, w]
    if (
        not mask.ndim
        or any(a not in {1, b} for a, b in zip(mask.shape, head.shape, strict=False))
        or mask.ndim > head.ndim
    ):
        what = f"returns a mask of shape {[*mask.shape]} for {name} of shape {[*head.shape]}"
        raise ModelError("output_mask(batch)", what, hint=HINT)
    mask = mask.reshape(*mask.shape, *[1] * (head.ndim - mask.ndim))
    return mask if head.is_meta else mask.to(head.device)

"""The shapes in which tensors travel through the package. A leaf: everything may import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Params = dict[str, "Tensor"]
"""Parameters or buffers by name."""

Masks = dict[str, "Tensor"]
"""Masks by the name of their weight, bool, `True` = kept."""

Apply = Callable[[Params, Any], "Tensor"]
"""A network as a function: `apply(params, x) -> outputs [n, c]`; `x` is a `Batch` (`data/batch.py`)."""

"""Convert arrays to inputs and labels of the few types that the rest of the program uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, named_tensors, rebuilt
from ntt_cli.data.samples import IGNORED
from ntt_cli.errors import DataError
from ntt_cli.files.free_memory import require_memory

Array = npt.NDArray[Any] | Tensor
Raw = Any
"""Inputs before they are converted: an `Array`, or a tuple or dict of them, the arguments of the network."""

TOKENS_AND_MASK = "return a dict of input_ids and attention_mask, or ((ids, mask), None)"

LABEL_KEYS = ("labels", "label", "targets", "y")
"""The keys of labels in a dict that holds inputs, too."""

WITHOUT_LABELS = "ntt prune takes any data, for it reads no labels"
SEVERAL = "several inputs are a dict by the names of forward's arguments, or ((x1, x2), labels or None)"


class CannotJoinError(DataError):
    """Samples or batches that cannot be joined to one batch."""


def count_samples(raw: Array, where: str | Path) -> int:
    """The length of the first dimension, which counts samples. There must be one, neither empty nor too long."""
    shape = list(raw.shape)
    if len(shape) < 2:
        hint = "save inputs as [n, features], [n, height, width] or [n, channels, height, width]"
        raise DataError(where, f"holds inputs of shape {shape}, without a dimension that counts samples", hint=hint)
    if 0 in shape:
        raise DataError(where, f"holds no samples: its inputs have shape {shape}", hint="name data that is not empty")
    # Empty samples, or those in a sparse file, may be too many to keep their indices in memory.
    require_memory(where, 8 * int(shape[0]), error=DataError, hint="divide it into smaller files")
    return int(shape[0])


def count_batch(raw: Raw, where: str | Path) -> int:
    """`count_samples` for one array or for several, which must have as many samples."""
    if not isinstance(raw, dict | tuple):
        return count_samples(raw, where)
    if not raw:
        raise DataError(where, "holds no inputs", hint=f"give at least one; {SEVERAL}")
    parts = named_tensors(raw)
    for name, part in parts:
        if part.ndim == 0 or 0 in part.shape:
            hint = "give each input a first dimension that counts samples"
            raise DataError(where, f"holds {name} of shape {list(part.shape)}", hint=hint)
    if len({len(part) for _, part in parts}) > 1:
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in parts)
        hint = "the first dimension of every input counts samples; leave out what is no input"
        raise DataError(where, f"holds inputs with different numbers of samples: {sizes:.300}", hint=hint)
    return count_samples(parts[0][1].reshape(len(parts[0][1]), -1), where)


def bytes_as_inputs(raw: Array) -> int:
    """Memory for the array as inputs, of type uint8, float32 or int64; it may be eight times the array's own."""
    if raw.dtype in {torch.uint8, np.dtype(np.uint8)}:
        return math.prod(raw.shape)
    floating = raw.is_floating_point() if isinstance(raw, Tensor) else raw.dtype.kind == "f"
    return math.prod(raw.shape) * (4 if floating else 8)


def as_inputs(raw: Array, where: str | Path, *, numbers: Tensor) -> Tensor:
    """Raw samples as uint8 images `[n, c, h, w]`, float32 values or int64 tokens.

    uint8 arrays are images: `[n, h, w]` gets a channel, and `[n, h, w, c]` with 1, 3 or 4 channels is moved to
    `[n, c, h, w]`, unless its second dimension could be the channels. uint8 of another rank, floats and tokens keep
    their shape. Values must be finite in float32, and tokens not negative. An error names a sample by its `numbers`.

    Raises:
        DataError: if the values are something else.
    """
    x = _numeric(raw)
    if x is None:
        hint = "save images as uint8, other values as float32 and tokens as int64"
        raise DataError(where, f"holds inputs of type {raw.dtype}", hint=hint)
    if x.dtype == torch.uint8:
        return _channels_first(x)
    if x.is_floating_point():
        wrong, what = ~x.isfinite(), "a value that is not a finite float32"
        hint = "remove such samples, or replace NaN and Inf"
    else:
        wrong, what = x < 0, "a negative number, and integers are tokens"
        hint = "number tokens from 0; save measurements as float32, images as uint8"
    bad = wrong.flatten(1).any(dim=1)
    if bad.any():
        raise DataError(where, f"sample {int(numbers[bad][0])} holds {what}", hint=hint)
    return x


def as_batch(raw: Raw, where: str | Path, *, numbers: Tensor) -> Batch:
    """One array by `as_inputs`. Of several, each as it is: float32, int64 or bool, and uint8 images.

    An array of uint8 with fewer than three dimensions is no image among several, but integers, such as a mask.
    """
    if not isinstance(raw, dict | tuple):
        return as_inputs(raw, where, numbers=numbers)
    parts = [_as_part(part, name, where, numbers) for name, part in named_tensors(raw)]
    batch: Batch = rebuilt(raw, parts)
    return batch


def _as_part(raw: Array, name: str, where: str | Path, numbers: Tensor) -> Tensor:
    if str(raw.dtype).endswith("bool"):
        return torch.as_tensor(raw).detach().cpu().clone()
    x = _numeric(raw)
    if x is None:
        hint = "give numbers, float32 or integers, or booleans; leave out what is no input"
        raise DataError(where, f"holds {name} of type {raw.dtype}", hint=hint)
    if x.dtype == torch.uint8:
        return _channels_first(x) if x.ndim > 2 else x.long()
    if x.is_floating_point() and not x.isfinite().all():
        bad = ~x.isfinite().reshape(len(x), -1).all(dim=1)
        what = f"sample {int(numbers[bad][0])} holds a {name} that is not finite in float32"
        raise DataError(where, what, hint="remove such samples, or replace NaN and Inf")
    return x


def inputs_and_labels(made: object, where: str | Path) -> tuple[Any, Any, str | None]:
    """The inputs and labels that a user's code gives, and the key of the labels if they were in the dict of inputs.

    These are `x`, `(x, labels)`, a dict, or `(dict, labels)` and `((x1, x2), labels)`. The labels are `None` if there
    are none. In a pair, all keys of the dict are inputs. A tuple of another length gives no inputs: it may be anything.

    Raises:
        DataError: if a dict has several keys of labels.
    """
    if isinstance(made, Mapping):
        found = [key for key in LABEL_KEYS if key in made]
        if len(found) > 1:
            hint = f"keep one of them; {SEVERAL}"
            raise DataError(where, f"has both {' and '.join(found)} in one dict, which are keys of labels", hint=hint)
        rest = {str(key): value for key, value in made.items() if key not in found}
        return (rest, made[found[0]], found[0]) if found else (rest, None, None)
    if isinstance(made, tuple) and len(made) != 2:
        return None, None, None
    inputs, labels = made if isinstance(made, tuple | list) and len(made) == 2 else (made, None)
    return (dict(inputs) if isinstance(inputs, Mapping) else inputs), labels, None


def is_raw(inputs: object) -> bool:
    """Whether a value is an array, or a dict or tuple of arrays."""
    if isinstance(inputs, dict | tuple):
        values = inputs.values() if isinstance(inputs, dict) else inputs
        return bool(inputs) and all(isinstance(value, Tensor | np.ndarray) for value in values)
    return isinstance(inputs, Tensor | np.ndarray)


def as_labels(raw: Array, where: str | Path, *, n: int) -> Tensor:
    """Whole numbers as int64, others as float32: `[n]` or `[n, ...]`.

    Whole numbers `[n, 1]` become `[n]`. Among several labels a sample, -100 is ignored.

    Raises:
        DataError: if they are no numbers, not one entry a sample, negative whole numbers or not finite.
    """
    shape = list(raw.shape)
    y = _numeric(raw)
    if not shape:
        raise DataError(where, f"has labels of shape [], not [{n}]", hint="save one whole number a sample")
    if len(raw) != n:
        raise DataError(where, f"has {n} inputs but {len(raw)} labels", hint="save exactly one label for each input")
    if y is None:
        hint = "save the number of each sample's class, by y.astype('int64'), or other targets as float32;"
        raise DataError(where, f"has labels of type {raw.dtype} and shape {shape}", hint=f"{hint} {WITHOUT_LABELS}")
    if y.is_floating_point():
        wrong = ~y.isfinite().reshape(n, -1).all(dim=1)
        if wrong.any():
            what = f"the target of sample {int(wrong.nonzero()[0])} is not a finite float32"
            raise DataError(where, what, hint="remove such samples, or replace NaN and Inf")
        return y
    y = y.long()
    if y.ndim == 2 and shape[1] == 1:
        y = y.reshape(-1)
    negative = (y < 0) & (y != IGNORED) if y.ndim > 1 else y < 0
    if negative.any():
        first = tuple(negative.nonzero()[0].tolist())
        raise DataError(
            where,
            f"the label of sample {first[0]} is {int(y[first])}",
            hint="number the classes from 0, or save amounts as float32",
        )
    return y


def _numeric(raw: Array) -> Tensor | None:
    """The values as uint8, float32 or int64; `None` for values of other types."""
    if isinstance(raw, Tensor):
        x = raw.detach().cpu()
        if x.is_floating_point():
            return x.float()
        if x.dtype == torch.bool or x.is_complex():
            return None
        return x if x.dtype == torch.uint8 else x.long()
    if raw.dtype == np.uint8:
        return torch.from_numpy(np.array(raw))
    if raw.dtype.kind in "iu":
        return torch.from_numpy(raw.astype(np.int64))
    if raw.dtype.kind == "f":
        with np.errstate(over="ignore"):  # found as Inf
            return torch.from_numpy(raw.astype(np.float32))
    return None


def _channels_first(x: Tensor) -> Tensor:
    channels = {1, 3, 4}
    if x.dim() == 3:
        return x[:, None]
    if x.dim() == 4 and x.shape[3] in channels and x.shape[1] not in channels:
        return x.movedim(3, 1).contiguous()
    return x


def refuse_mask(pairs: Sequence[Sequence[object]], where: str) -> None:
    # Refuse tokens all of whose labels look like an attention mask or like segments.
    if pairs and all(_is_mask(tokens, mask) for tokens, mask in pairs):
        what = "has tokens, and with them what looks like their attention mask, which would be taken for labels"
        raise DataError(where, what, hint=TOKENS_AND_MASK)


def type_and_shape(x: Batch) -> str:
    parts = [(name, f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}") for name, part in named_tensors(x)]
    return ", ".join(f"{name} {kind}".lstrip() for name, kind in parts)


def kind_of(value: object) -> str:
    """The kind of a value, in words of bounded length."""
    kind = type(value)
    if isinstance(value, Tensor):
        return f"a Tensor of shape {list(value.shape)}"
    name = kind.__name__ if kind.__module__ in {"builtins", "torch"} else f"{kind.__module__}.{kind.__name__}"
    if isinstance(value, Mapping):
        return f"a {name} of {', '.join(map(str, value)):.99}"
    if isinstance(value, (tuple, list)) and value:
        return f"a {name} of {len(value):,}, the first a {type(value[0]).__name__}"
    return f"a {name}"


def _is_mask(tokens: object, mask: object) -> bool:
    """Whether a value is as long as the tokens, with rows of ones before zeros or zeros before ones."""
    for values in (tokens, mask):
        if not isinstance(values, Tensor | np.ndarray) or getattr(values.dtype, "kind", "i") not in "biuf":
            return False
    x, y = (torch.as_tensor(values).detach().cpu() for values in (tokens, mask))
    if x.dtype in {torch.uint8, torch.bool} or x.is_floating_point() or x.is_complex():
        return False
    if x.ndim == 0 or x.shape[-1] < 3 or x.numel() == 0 or x.numel() != y.numel():
        return False
    if x.max() < 2 or not ((y == 0) | (y == 1)).all():
        return False
    steps = y.reshape(-1, x.shape[-1]).int().diff(dim=1)
    return bool(((steps >= 0).all(dim=1) | (steps <= 0).all(dim=1)).all())

"""`--image-size` and `--grayscale`, for images from any source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ntt_cli.config import DataOptions
from ntt_cli.data.batch import Batch, rebuilt, tensors_of
from ntt_cli.errors import DataError, UsageError

MOST_PIXELS = 2**26
"""The most pixels of an image; some cameras have as many. A tiny file may claim a thousand times more."""


def image_size(options: DataOptions) -> tuple[int, int] | None:
    """The height and width that `--image-size` asks for. Neither may be 0."""
    if options.image_size is None:
        return None
    sides = [int(side) for side in options.image_size.split("x")]
    if 0 in sides:
        raise UsageError("--image-size", f"{options.image_size} has no pixels", hint="give H or HxW, like 32 or 32x48")
    return sides[0], sides[-1]


def format_batch(x: Batch, options: DataOptions, where: str) -> Batch:
    """`format_images`; of several inputs, for those that are images. Without images, the first one is refused."""
    parts = tensors_of(x)
    chosen = [i for i, part in enumerate(parts) if part.dtype == torch.uint8 and part.dim() == 4] or [0]
    formatted: Batch = rebuilt(
        x, [format_images(part, options, where) if i in chosen else part for i, part in enumerate(parts)]
    )
    return formatted


def format_images(x: Tensor, options: DataOptions, where: str) -> Tensor:
    """Images `[n, c, h, w]` with the size and channels that the options ask for; `x` itself without such options."""
    size = image_size(options)
    if size is None and not options.grayscale:
        return x
    if x.dtype != torch.uint8 or x.dim() != 4:
        option = "--grayscale" if size is None else "--image-size"
        raise DataError(where, f"holds no uint8 images that {option} could change", hint=f"leave out {option}")
    if options.grayscale and x.shape[1] not in {1, 3}:
        what = f"holds images of {x.shape[1]} channels, for which there is no gray"
        raise DataError(where, what, hint="leave out --grayscale")
    parts: Iterable[Tensor] = x.split(1024)
    if options.grayscale and x.shape[1] == 3:
        parts = map(_gray, parts)
    if size is not None:
        parts = (fit(part, size, where) for part in parts)
    return torch.cat(list(parts))


def fit(x: Tensor, size: tuple[int, int], where: str | Path) -> Tensor:
    """Images `[n, c, h, w]` resized until they just cover `size`, then cropped to it about their centre."""
    height, width = size
    scale = max(height / x.shape[2], width / x.shape[3])
    rows, columns = max(height, round(x.shape[2] * scale)), max(width, round(x.shape[3] * scale))
    if rows * columns > MOST_PIXELS:
        what = f"has {x.shape[2]}x{x.shape[3]} pixels, which become {rows}x{columns} before they are cropped"
        hint = "crop it yourself or remove it, or give a smaller --image-size"
        raise DataError(where, what, hint=hint)
    resized = interpolate(x, size=(rows, columns), mode="bilinear", antialias=True)
    top, left = (rows - height) // 2, (columns - width) // 2
    return resized[:, :, top : top + height, left : left + width]


def _gray(x: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, in the integer arithmetic of Pillow's `convert("L")`, so that all sources agree."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    return ((x.int() * weights).sum(dim=1, keepdim=True, dtype=torch.int32) + 0x8000 >> 16).to(torch.uint8)

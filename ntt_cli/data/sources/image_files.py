"""Image files: headers are read first; pixels are decoded at once if they fit into memory."""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ntt_cli.config import DataOptions
from ntt_cli.data import images, samples
from ntt_cli.data.images import fit, image_size
from ntt_cli.data.samples import InMemory, InputSource, Reading
from ntt_cli.errors import DataError
from ntt_cli.runtime.workers import WorkerPool

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""The decoders that may run, whatever a file's name: for PostScript, Pillow would start another program."""

GRAY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
REPAIR = "repair this image or remove it"
DECODED_AT_ONCE = 1024
"""The images that worker processes are asked for at a time."""

Mode = Literal["L", "RGB"]


class Header(NamedTuple):
    """What a file declares of its image: height and width, upright, and whether it is gray."""

    size: tuple[int, int]
    gray: bool


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images of one size, decoded when they are fetched, and resized to it if `resize`; otherwise they must have it."""

    paths: list[Path]
    mode: Mode
    size: tuple[int, int]
    resize: bool
    workers: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, indices: Tensor, reading: Reading = ()) -> Tensor:
        return torch.stack(self.pool.map(indices.tolist()))

    @cached_property
    def pool(self) -> WorkerPool:
        """Decodes the images of these numbers."""
        return WorkerPool(replace(self).decode, self.workers, str(self.paths[0].parent))

    def decode(self, i: int) -> Tensor:
        """Image `i` as uint8 `[c, h, w]`."""
        try:
            with Image.open(self.paths[i], formats=FORMATS) as image:
                pixels = image_pixels(image, self.mode)
        except Exception as failure:  # Pillow's decoders raise whatever they trip over
            raise DataError(self.paths[i], f"cannot be decoded: {failure}", hint=REPAIR) from failure
        if self.resize:
            pixels = fit(pixels[None], self.size, self.paths[i])[0]
        if pixels.shape[1:] != self.size:
            what = f"decodes to {pixels.shape[1]}x{pixels.shape[2]} pixels, unlike its header"
            raise DataError(self.paths[i], what, hint="give --image-size")
        return pixels


def open_images(paths: list[Path], options: DataOptions) -> InputSource:
    """Images of one size and one number of channels: 1 if all are gray, otherwise 3 without alpha."""
    # All headers are read here, and pixels too if they fit, so that damage is found before work starts.
    headers = _read_headers(paths)
    gray = options.grayscale or all(header.gray for header in headers)
    asked = image_size(options)
    size = asked or headers[0].size
    for path, header in zip(paths, headers, strict=True):
        if asked is None and header.size != size:
            first, other = (f"{height}x{width}" for height, width in (size, header.size))
            what = f"has {other} pixels, {paths[0]} {first}"
            raise DataError(path, what, hint=f"give --image-size, like --image-size {first}")
    files = ImageFiles(paths, "L" if gray else "RGB", size, resize=asked is not None, workers=options.workers)
    shape = (len(paths), 1 if gray else 3, *size)
    if math.prod(shape) > samples.EAGER_BYTES:
        return files
    largest = max(math.prod(header.size) for header in headers)
    return InMemory(_decode_all(files, torch.empty(shape, dtype=torch.uint8), largest=largest))


def image_pixels(image: Image.Image, mode: Mode) -> Tensor:
    """The pixels as uint8 `[c, h, w]`, turned upright by EXIF; of 16 bits the upper 8 are kept.

    Raises:
        ValueError: if a pixel has more than 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() >= 2**16:
            raise ValueError("it has more than 16 bits a pixel; save such measurements as .npy")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")  # only the colours; transparency in the palette is ignored
    pixels = torch.from_numpy(np.array(image.convert(mode)))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)


def _read_headers(paths: list[Path]) -> list[Header]:
    headers: list[Header] = []
    failures: list[DataError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for path in paths:
            try:
                headers.append(_read_header(path))
            except (Image.DecompressionBombError, Image.DecompressionBombWarning):
                failures.append(_too_large(path))
            except DataError as failure:
                failures.append(failure)
            except Exception as failure:  # Pillow's decoders raise whatever they trip over
                failures.append(DataError(path, f"cannot be read as an image: {failure}", hint=REPAIR))
    _raise_first(failures)
    return headers


def _read_header(path: Path) -> Header:
    if path.exists() and not path.is_file():
        raise DataError(path, "is a pipe or a device, not a file", hint="remove it from the folder")
    with Image.open(path, formats=FORMATS) as image:
        # If EXIF comes after the pixels of a PNG, Pillow would decode them; `decode` detects such an image.
        known = image.format != "PNG" or "exif" in image.info
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if known else 1
        width, height = image.size if orientation < 5 else image.size[::-1]
        if width * height > images.MOST_PIXELS:
            raise _too_large(path)
        return Header((height, width), gray=image.mode in GRAY_MODES)


def _too_large(path: Path) -> DataError:
    what = f"has more than {images.MOST_PIXELS:,} pixels, as a decompression bomb has"
    return DataError(path, what, hint="make this image smaller, or remove it")


def _decode_all(files: ImageFiles, out: Tensor, *, largest: int) -> Tensor:
    def decode(i: int) -> DataError | None:
        try:
            out[i] = files.decode(i)
        except DataError as failure:
            return failure
        return None

    if files.workers:
        for numbers in torch.arange(len(files)).split(DECODED_AT_ONCE):
            out[numbers] = files.fetch(numbers)
        return out
    workers = min(8, os.cpu_count() or 1, images.MOST_PIXELS // largest)  # one at a time if images are very large
    with ThreadPoolExecutor(max_workers=workers) as pool:
        _raise_first(list(filter(None, pool.map(decode, range(len(files))))))
    return out


def _raise_first(failures: list[DataError]) -> None:
    if failures:
        first, *more = failures
        others = f" ({len(more)} more of the images fail too)" if more else ""
        raise DataError(first.where, first.what + others, hint=first.hint)

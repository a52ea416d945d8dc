from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_cli.config import DataOptions
from ntt_cli.data.images import fit, format_images, image_size
from ntt_cli.errors import UsageError
from tests.data.refusal import refusal


@pytest.mark.parametrize(("text", "size"), [(None, None), ("32", (32, 32)), ("20x30", (20, 30))])
def test_sizes_are_height_by_width(text: str | None, size: tuple[int, int] | None) -> None:
    assert image_size(DataOptions(image_size=text)) == size


@pytest.mark.parametrize("text", ["0", "0x3", "3x0"])
def test_a_size_of_nothing(text: str) -> None:
    with refusal(f"--image-size: {text} has no pixels", hint="like 32", error=UsageError):
        image_size(DataOptions(image_size=text))


def test_gray_is_what_pillow_calls_gray() -> None:
    x = torch.randint(0, 256, (2000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gray = format_images(x, DataOptions(grayscale=True), "x")
    assert gray.shape == (2000, 1, 4, 4)
    for i in (0, 1023, 1024, 1999):
        expected = np.asarray(Image.fromarray(x[i].permute(1, 2, 0).numpy()).convert("L"))
        np.testing.assert_array_equal(gray[i, 0].numpy(), expected)


def test_gray_images_stay_gray() -> None:
    x = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert torch.equal(format_images(x, DataOptions(grayscale=True), "x"), x)


def test_without_options_nothing_changes() -> None:
    x = torch.zeros(2, 7)
    assert format_images(x, DataOptions(), "x") is x


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (6, 6, (3, 3)),
        (8, 20, (4, 4)),
        (20, 8, (4, 4)),
        (5, 7, (10, 14)),
        (9, 9, (4, 6)),
        (3, 100, (7, 1)),
        (28, 28, (32, 32)),
    ],
)
def test_fit_covers_the_size_and_crops_the_centre(height: int, width: int, size: tuple[int, int]) -> None:
    # A ramp across each axis is symmetric about its centre, and so must be what is left of it.
    rows = torch.linspace(0, 254, height).round().view(-1, 1).expand(height, width)
    columns = torch.linspace(0, 254, width).round().view(1, -1).expand(height, width)
    fitted = fit(torch.stack([rows, columns])[None].to(torch.uint8), size, "images")[0].float()
    assert fitted.shape == (2, *size)
    torch.testing.assert_close(fitted[0] + fitted[0].flip(0), torch.full(size, 254.0), atol=20, rtol=0)
    torch.testing.assert_close(fitted[1] + fitted[1].flip(1), torch.full(size, 254.0), atol=20, rtol=0)


def test_fit_halves_by_averaging_and_crops_what_sticks_out() -> None:
    image = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    image[..., :2] = 255  # the two columns at each side lie outside of the centred square
    image[..., 6:] = 255
    image[..., 2:6] = 100
    fitted = fit(image, (4, 4), "images")
    assert fitted.unique().tolist() == [100]

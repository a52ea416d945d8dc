from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, images, load_samples, samples
from tests.data.refusal import refusal


def load(folder: Path, **options: object) -> Samples:
    return load_samples(DataOptions(data=str(folder), **options), split="train")


def pixels(folder: Path, **options: object) -> torch.Tensor:
    data = load(folder, **options)
    return (255 * data.inputs(torch.arange(len(data)))).round().to(torch.uint8)


def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp", "PNG"])
def test_colour_images_come_as_they_were_saved(tmp_path: Path, suffix: str) -> None:
    raw = noise(5, 7, 3)
    Image.fromarray(raw).save(tmp_path / f"a.{suffix}", lossless=True)
    np.testing.assert_array_equal(pixels(tmp_path)[0].permute(1, 2, 0).numpy(), raw)


def test_jpeg_images_come_as_pillow_decodes_them(tmp_path: Path) -> None:
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.array(image)
    np.testing.assert_array_equal(pixels(tmp_path)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_gray_modes_have_one_channel(tmp_path: Path, mode: str) -> None:
    raw = np.where(noise(5, 7) > 127, 255, 0).astype(np.uint8)
    Image.fromarray(raw).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path).numpy(), raw[None, None])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_of_16_bits_the_upper_8_are_kept(tmp_path: Path, suffix: str) -> None:
    raw = np.array([[0, 255, 256, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(raw).save(tmp_path / f"a.{suffix}")
    assert pixels(tmp_path).flatten().tolist() == [0, 0, 1, 156, 255]


def test_more_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, 1e9]], dtype=np.float32)).save(tmp_path / "a.tif")
    with refusal("a.tif: cannot be decoded: it has more than 16 bits a pixel", hint="remove it"):
        load(tmp_path)
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    with refusal("a.tif: cannot be decoded: it has more than 16 bits a pixel", hint="remove it"):
        load(tmp_path)


def test_alpha_is_dropped_and_palettes_are_colours(tmp_path: Path) -> None:
    transparent = Image.fromarray(np.dstack([noise(4, 4, 3), np.zeros((4, 4), dtype=np.uint8)]))
    transparent.save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "b.png", transparency=bytes([0, 128]))
    x = pixels(tmp_path)
    np.testing.assert_array_equal(x[0].permute(1, 2, 0).numpy(), noise(4, 4, 3))
    assert x[1].amax(dim=(1, 2)).tolist() == x[1].amin(dim=(1, 2)).tolist() == [10, 20, 30]


def test_one_coloured_image_makes_all_coloured_and_grayscale_makes_all_gray(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 50).save(tmp_path / "a.png")
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "b.png")
    assert pixels(tmp_path)[:, :, 0, 0].tolist() == [[50, 50, 50], [255, 0, 0]]
    assert pixels(tmp_path, grayscale=True)[:, :, 0, 0].tolist() == [[50], [76]]  # 255 * 0.299


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("lazy", [False, True])
def test_images_are_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, *, lazy: bool) -> None:
    if lazy:
        monkeypatch.setattr(samples, "EAGER_BYTES", 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    raw = np.zeros((16, 32), dtype=np.uint8)
    raw[:8] = 255
    Image.fromarray(raw).save(tmp_path / f"a.{suffix}", exif=exif)
    Image.new("L", (16, 32)).save(tmp_path / f"b.{suffix}")
    x = pixels(tmp_path)
    assert x.shape == (2, 1, 32, 16)
    assert x[0, 0, :, 8:].float().mean() > 250
    assert x[0, 0, :, :8].float().mean() < 5


def test_orientation_hidden_behind_the_pixels_is_found_at_decoding(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.new("L", (4, 2)).save(path)
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(path.read_bytes()[:-12] + chunk + path.read_bytes()[-12:])  # before the 12 bytes of IEND
    with refusal("a.png: decodes to 4x2 pixels, unlike its header", hint="--image-size"):
        load(tmp_path)
    assert pixels(tmp_path, image_size="4x2").shape == (1, 1, 4, 2)


def test_different_sizes_need_one_size(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 9).save(tmp_path / "a.png")
    Image.new("L", (6, 5), 9).save(tmp_path / "b.png")
    with refusal(f"b.png: has 5x6 pixels, {tmp_path / 'a.png'} 4x6", hint="--image-size 4x6"):
        load(tmp_path)
    x = pixels(tmp_path, image_size="3")
    assert x.shape == (2, 1, 3, 3)
    assert x.unique().tolist() == [9]


def test_damaged_images_are_found_before_any_is_fetched(tmp_path: Path) -> None:
    for name in "abcde":
        Image.fromarray(noise(32, 32, 3)).save(tmp_path / f"{name}.png")
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.png").write_bytes(whole[: len(whole) // 3])
    with refusal("c.png: cannot be decoded: ", hint="repair this image or remove it"):
        load(tmp_path)
    with refusal("(1 more of the images fail too)", hint="repair"):
        load(tmp_path)
    for name in "bde":
        (tmp_path / f"{name}.png").write_text("no image")
    with refusal("b.png: cannot be read as an image: ", hint="repair"):
        load(tmp_path)
    with refusal("(2 more of the images fail too)", hint="repair"):
        load(tmp_path)


def test_images_too_many_for_memory_are_decoded_when_they_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        Image.fromarray(noise(6, 6, 8, 8, 3)[i, i]).save(tmp_path / f"{i}.png")
    eager = load(tmp_path, image_size="5")
    monkeypatch.setattr(samples, "EAGER_BYTES", 6 * 3 * 5 * 5 - 1)
    lazy = load(tmp_path, image_size="5")
    assert not isinstance(lazy.source, type(eager.source))
    assert len(lazy) == 6
    order = torch.tensor([5, 0, 3])
    assert torch.equal(lazy.inputs(order), eager.inputs(order))
    (tmp_path / "3.png").write_text("overwritten")
    lazy.inputs(torch.tensor([5, 0]))
    with refusal("3.png: cannot be decoded", hint="repair"):
        lazy.inputs(order)


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 1600)
    load(tmp_path)
    monkeypatch.setattr(images, "MOST_PIXELS", 1599)
    for limit in (10_000, 1000, 100):  # where Pillow does nothing, where it warns, and where it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as they are outside of these tests
            with refusal("a.png: has more than 1,599 pixels, as a decompression bomb has", hint="make this image sma"):
                load(tmp_path)


def test_a_long_and_thin_image_is_not_blown_up(tmp_path: Path) -> None:
    Image.new("1", (1_000_000, 1)).save(tmp_path / "a.png")
    with refusal("a.png: has 1x1000000 pixels, which become 32x32000000 before they are cropped", hint="crop it"):
        load(tmp_path, image_size="32")


def test_no_other_decoder_runs_whatever_the_name(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with refusal("a.png: cannot be read as an image", hint="remove it"):
        load(tmp_path)

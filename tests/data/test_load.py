from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_cli.config import DataOptions
from ntt_cli.data import load_samples
from ntt_cli.errors import UsageError
from tests.data.refusal import refusal


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_any_data_both_ways_are_named() -> None:
    with refusal("data: none is named", hint="--data digits"):
        load_samples(DataOptions(), split="train")
    with refusal("data: none is named", hint='DATA = "digits" in model.py'):
        load_samples(DataOptions(), split="train")


def test_the_option_wins_over_the_model_file() -> None:
    assert load_samples(DataOptions(), split="train", default="digits").spec == "digits"
    noise = load_samples(DataOptions(data="noise:3"), split="train", default="digits", input_shape=(2,))
    assert noise.spec == "noise:3"


@pytest.mark.parametrize(
    ("spec", "given", "option"),
    [
        ("digits", {"data_root": "elsewhere"}, "--data-root elsewhere"),
        ("digits", {"download": True}, "--download"),
        ("digits", {"input_shape": "1x8x8"}, "--input-shape 1x8x8"),
        ("mnist", {"input_shape": "1x8x8"}, "--input-shape 1x8x8"),
        ("noise:3", {"data_root": "data"}, "--data-root data"),
        ("data.py", {"download": True}, "--download"),
        ("x.npy", {"input_shape": "64"}, "--input-shape 64"),
    ],
)
def test_options_of_other_data(
    spec: str, given: dict[str, Any], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data.py", "x.npy"):
        Path(name).touch()
    with pytest.raises(UsageError) as caught:
        load_samples(DataOptions(data=spec, **given), split="train", input_shape=(64,))
    assert str(caught.value) == f"{option}: the data {spec} does not read it"
    assert caught.value.hint == "leave it out"


def test_noise_is_gaussian_and_belongs_to_its_seed() -> None:
    options = DataOptions(data="noise:1000", input_shape="3x4")
    data = load_samples(options, split="train", input_shape=(7,), seed=1)
    x = data.inputs(torch.arange(1000))
    assert x.shape == (1000, 3, 4)
    assert x.mean().abs() < 0.05
    assert (x.std() - 1).abs() < 0.05
    assert (data.labels, data.split) == (None, None)
    state = torch.get_rng_state()
    again, other = (load_samples(options, split="test", seed=seed).inputs(torch.arange(1000)) for seed in (1, 2))
    assert torch.equal(again, x)
    assert not torch.equal(other, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_takes_the_shape_of_the_model_file() -> None:
    data = load_samples(DataOptions(data="noise:5", limit=2), split="train", input_shape=(1, 8, 8))
    assert data.inputs(torch.arange(len(data))).shape == (2, 1, 8, 8)


def test_noise_has_the_shape_that_images_would_come_out_with() -> None:
    options = DataOptions(data="noise:5", image_size="4x6", grayscale=True)
    data = load_samples(options, split="train", input_shape=(3, 8, 8))
    assert data.inputs(torch.arange(5)).shape == (5, 1, 4, 6)
    small = load_samples(DataOptions(data="noise:5", image_size="2"), split="train", input_shape=(3, 8, 8))
    assert small.inputs(torch.arange(5)).shape == (5, 3, 2, 2)
    with refusal("holds no uint8 images that --image-size could change", hint="leave out --image-size"):
        load_samples(options, split="train", input_shape=(8, 8))


@pytest.mark.parametrize(
    ("spec", "shape", "what", "hint"),
    [
        ("noise:5", None, "the shape of a sample is not known", "--input-shape"),
        ("noise:5", None, "the shape of a sample is not known", "INPUT_SHAPE = (3, 32, 32)"),
        ("noise", "3", "does not say how many samples", "noise:512"),
        ("noise:", "3", "does not say how many samples", "noise:512"),
        ("noise:0", "3", "does not say how many samples", "noise:512"),
        ("noise:-1", "3", "does not say how many samples", "noise:512"),
        ("noise:many", "3", "does not say how many samples", "noise:512"),
        ("noise:5", "3x0", "holds no samples: its inputs have shape [5, 3, 0]", "not empty"),
        ("noise:1000000", "3x224x224", "takes 560.8 GiB of memory", "fewer"),
    ],
)
def test_noise_that_cannot_be_made(spec: str, shape: str | None, what: str, hint: str) -> None:
    with refusal(what, hint=hint):
        load_samples(DataOptions(data=spec, input_shape=shape), split="train")


@pytest.mark.parametrize(
    ("spec", "what", "hint"),
    [
        ("fashon-mnist", "is no data set, file or folder", "did you mean fashion-mnist?"),
        ("CIFAR-10", "is no data set, file or folder", "did you mean cifar10?"),
        ("imagenet", "is no data set, file or folder", "name digits, fashion-mnist, mnist"),
        ("", "is no data set, file or folder", "name digits"),
        ("pictures.npz", "there is no such file or folder", "name digits"),
        ("sub/pictures", "there is no such file or folder", "name digits"),
        ("./digits", "there is no such file or folder", "did you mean digits?"),
        ("trainings.npz", "there is no such file or folder", "did you mean training.npz?"),
        ("training.txt", "is not a kind of file that can be read as data", "a .npy, .npz or .safetensors file"),
        ("training.pt", "is a pickle, which may run code", "safetensors.torch.save_file"),
        ("training.PKL", "is a pickle, which may run code", "safetensors.torch.save_file"),
        ("training.bin", "is a pickle, which may run code", "safetensors.torch.save_file"),
        ("one.png", "is a single image", "name its folder"),
    ],
)
def test_names_that_lead_nowhere(spec: str, what: str, hint: str) -> None:
    for name in ("training.npz", "training.txt", "training.pt", "training.PKL", "training.bin"):
        Path(name).write_bytes(b"")
    Image.new("L", (2, 2)).save("one.png")
    with refusal(what, hint=hint):
        load_samples(DataOptions(data=spec), split="train")


def test_a_name_means_the_data_set_and_a_path_the_folder() -> None:
    Path("digits").mkdir()
    Image.new("L", (2, 2)).save("digits/a.png")
    assert len(load_samples(DataOptions(data="digits"), split="train")) == 1438
    assert len(load_samples(DataOptions(data="./digits"), split="train")) == 1


def test_the_home_folder_and_capital_suffixes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save("x.npy", np.zeros((4, 2)))
    Path("x.npy").rename("X.NPY")
    data = load_samples(DataOptions(data="~/X.NPY"), split="train")
    assert len(data) == 4
    assert data.spec == "~/X.NPY"

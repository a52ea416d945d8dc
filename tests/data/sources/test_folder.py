from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, load_samples
from ntt_cli.data.samples import draw
from ntt_cli.errors import DataError
from tests.data.refusal import refusal


def plant(folder: Path, *names: str) -> None:
    """Gray images, each the brighter the later it was named."""
    for brightness, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), brightness).save(path)


def load(folder: Path, *, split: str = "train", **options: object) -> Samples:
    return load_samples(DataOptions(data=str(folder), **options), split=split)


def brightness(data: Samples) -> list[int]:
    x = data.inputs(torch.arange(len(data)))
    assert x.shape == (len(data), 1, 2, 3)
    return (255 * x[:, 0, 0, 0]).round().int().tolist()


def test_a_flat_folder_is_unlabelled_and_in_the_order_of_names(tmp_path: Path) -> None:
    plant(tmp_path, "c.png", "a.png", "b.bmp")
    data = load(tmp_path)
    assert brightness(data) == [1, 2, 0]
    assert (data.labels, data.class_names, data.split) == (None, None, None)
    assert data.spec == str(tmp_path)


def test_one_folder_a_class_is_labelled_by_the_order_of_the_folders(tmp_path: Path) -> None:
    plant(tmp_path, "dog/1.png", "cat/2.png", "cat/deeper/1.png", "bird/x.jpeg", "dog/0.png")
    data = load(tmp_path)
    assert data.class_names == ("bird", "cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1, 2, 2]
    assert data.labels.dtype == torch.int64
    assert brightness(data) == [3, 1, 2, 4, 0]


@pytest.mark.parametrize(
    "names",
    [("top.png", "cat/a.png", "dog/b.png"), ("2024/may/a.png", "2024/june/b.png"), ("one/a.png", "one/b.png")],
    ids=["mixed", "nested below a single folder", "single folder"],
)
def test_other_arrangements_are_unlabelled(tmp_path: Path, names: tuple[str, ...]) -> None:
    plant(tmp_path, *names)
    data = load(tmp_path)
    assert sorted(brightness(data)) == list(range(len(names)))
    assert data.labels is None


def test_hidden_files_and_other_files_are_ignored(tmp_path: Path) -> None:
    plant(tmp_path, "cat/a.png", "dog/b.png", ".cache/c.png", "dog/.d.png", "dog/.old/e.png", "__MACOSX/f.png")
    (tmp_path / "README.txt").write_text("no image")
    (tmp_path / "cat" / "labels.csv").write_text("no image")
    data = load(tmp_path)
    assert brightness(data) == [0, 1]
    assert data.class_names == ("cat", "dog")


def test_an_empty_class_folder_would_shift_the_labels(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()
    with refusal(f"{tmp_path / 'b'}: holds no images, and the folders beside it are classes", hint="remove it"):
        load(tmp_path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    with refusal(f"{tmp_path}: holds no images", hint=".jpeg .jpg"):
        load(tmp_path)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_divided_folder_gives_each_split_its_own(tmp_path: Path, test_name: str) -> None:
    plant(tmp_path, "train/a/0.png", "train/b/0.png", f"{test_name}/a/0.png", f"{test_name}/b/0.png")
    train, test = load(tmp_path, split="train"), load(tmp_path, split="test")
    assert (brightness(train), brightness(test)) == ([0, 1], [2, 3])
    assert (train.split, test.split) == ("train", "test")
    assert train.class_names == test.class_names == ("a", "b")


def test_a_test_folder_is_preferred_to_a_validation_folder(tmp_path: Path) -> None:
    plant(tmp_path, "train/0.png", "val/0.png", "test/0.png")
    assert brightness(load(tmp_path, split="test")) == [2]


def test_the_test_labels_are_numbered_as_the_training_labels(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/0.png")
    test = load(tmp_path, split="test")
    assert test.class_names == ("a", "b", "c")
    assert test.labels is not None
    assert test.labels.tolist() == [2]
    plant(tmp_path, "test/bee/0.png")
    with refusal("bee: is not one of the training classes", hint="a, b, c"):
        load(tmp_path, split="test")


def test_a_divided_folder_without_the_split(tmp_path: Path) -> None:
    plant(tmp_path, "train/0.png")
    assert brightness(load(tmp_path, split="train")) == [0]
    with refusal("has train/ but no test/ or val/", hint="add test/ or val/, or name a folder within"):
        load(tmp_path, split="test")
    plant(tmp_path, "test/0.png", "val/0.png")
    (tmp_path / "train").rename(tmp_path / ".train")
    with refusal("has test/, val/ but no train/", hint="add train/"):
        load(tmp_path, split="train")


@pytest.mark.parametrize(
    ("beside", "named"),
    [("top.png", "top.png"), ("extra/0.png", "extra/"), ("a/0.png", "a/, b/"), ("models/old/0.png", "models/")],
)
def test_images_beside_the_parts_are_refused(tmp_path: Path, beside: str, named: str) -> None:
    """They would make three classes called so, or put test images among the others."""
    plant(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png", beside, *["b/0.png"] * (beside[0] == "a"))
    with refusal(f"{tmp_path}: has test/ and train/, and images beside them: {named}", hint=f"{tmp_path / 'test'}"):
        load(tmp_path)


def test_what_lies_beside_the_parts_without_images_is_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png", ".git/0.png")
    (tmp_path / "models").mkdir()
    for name in ("README.txt", "models/best.safetensors", "labels.csv"):
        (tmp_path / name).write_text("no image")
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert (train.class_names, brightness(train), brightness(test)) == (("a", "b"), [0, 1], [2])


@pytest.mark.parametrize(("first", "second"), [("Train", "Test"), ("training", "validation"), ("TRAIN", "valid")])
def test_parts_under_other_names(tmp_path: Path, first: str, second: str) -> None:
    plant(tmp_path, f"{first}/0.png", f"{second}/0.png")
    assert (brightness(load(tmp_path)), brightness(load(tmp_path, split="test"))) == ([0], [1])
    plant(tmp_path, "train/0.png" if first != "training" else "Train/0.png")
    with refusal("has both", hint="join them"):
        load(tmp_path)


def test_train_can_be_a_class(tmp_path: Path) -> None:
    plant(tmp_path, "bus/0.png", "train/0.png")
    data = load(tmp_path, split="test")
    assert data.class_names == ("bus", "train")
    assert data.split is None


def test_a_limit_keeps_images_and_labels_together(tmp_path: Path) -> None:
    plant(tmp_path, *(f"class{i}/0.png" for i in range(10)))
    drawn = draw(10, 4).tolist()
    for i in set(range(10)) - set(drawn):
        (tmp_path / f"class{i}" / "0.png").write_text("nobody reads this")
    data = load(tmp_path, limit=4)
    assert data.labels is not None
    assert brightness(data) == data.labels.tolist() == drawn
    assert len(data.class_names or ()) == 10


def test_a_linked_class_folder_is_followed(tmp_path: Path) -> None:
    plant(tmp_path, "elsewhere/0.png", "data/a/0.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert load(tmp_path / "data").class_names == ("a", "b")


def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path: Path) -> None:
    plant(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: is a pipe or a device, not a file"):
        load(tmp_path)

"""Small data as people have them, by name: each is written into the working folder.

A source says what its files mean in plain numpy, so that a test need not rest on how ntt reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Source:
    """What was written.

    Attributes:
        data: for `--data` of `prune` and `finetune`.
        test: for `--data` of `evaluate`, where that is not the same.
        x: the training inputs as the network should see them before normalisation: float32 images `[n, c, h, w]` in
            [0, 1], other floats, or int64 tokens.
        x_test: likewise, of what `evaluate` reads.
        y_test: its labels, where it has any.
        options: what else one would type.
    """

    data: str | None
    x: Array
    x_test: Array
    y_test: Array | None = None
    test: str | None = None
    options: tuple[str, ...] = ()


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _vectors(n: int, classes: int = 4, seed: int = 0, features: int = 8) -> tuple[Array, Array]:
    """Clusters that a small network can learn to tell apart, of other means and scales by feature."""
    centres = 2 * _random(99).standard_normal((classes, features))
    y = _random(seed).integers(0, classes, n)
    x = centres[y] + _random(seed + 1).standard_normal((n, features))
    return (x * np.linspace(0.5, 3, features) + 1).astype(np.float32), y


def _images(n: int, seed: int = 0, channels: int = 3, side: int = 8) -> tuple[Array, Array]:
    """uint8 `[n, h, w, c]`; each of three classes is bright in another third."""
    y = _random(seed).integers(0, 3, n)
    x = _random(seed + 1).integers(0, 120, (n, side, side, channels))
    for image, label in zip(x, y, strict=True):
        image[label * side // 3 : (label + 1) * side // 3] += 100
    return x.astype(np.uint8), y


def _seen(x: Array) -> Array:
    return np.moveaxis(x, -1, 1).astype(np.float32) / 255


def _tokens(n: int, seed: int = 0, vocabulary: int = 13, length: int = 7, first: int = 0) -> tuple[Array, Array]:
    x = _random(seed).integers(first, vocabulary, (n, length))
    return x, (x.sum(1) % 3).astype(np.int64)


def vectors() -> Source:
    (x, y), (x_test, y_test) = _vectors(48), _vectors(31, seed=5)
    np.savez("vectors.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return Source("vectors.npz", x, x_test, y_test)


def many_vectors() -> Source:
    (x, y), (x_test, y_test) = _vectors(48), _vectors(40, seed=5)
    np.savez("many.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return Source("many.npz", x, x_test, y_test)


def doubles() -> Source:
    (x, y), (x_test, y_test) = _vectors(48), _vectors(31, seed=5)
    np.savez("doubles.npz", inputs=x.astype(np.float64), labels=y.astype(np.int32)[:, None])
    np.savez("doubles_test.npz", inputs=x_test.astype(np.float64), labels=y_test.astype(np.uint8))
    return Source("doubles.npz", x, x_test, y_test, test="doubles_test.npz")


def halves() -> Source:
    x, y = (torch.from_numpy(a) for a in _vectors(48))
    x_test, y_test = (torch.from_numpy(a) for a in _vectors(31, seed=5))
    save_file({"x_train": x.half(), "y_train": y, "x_val": x_test.half(), "y_val": y_test}, "halves.safetensors")
    return Source("halves.safetensors", x.half().float().numpy(), x_test.half().float().numpy(), y_test.numpy())


def gaps() -> Source:
    (x, y), (x_test, y_test) = _vectors(48, classes=3), _vectors(31, classes=3, seed=5)
    where = np.array([0, 2, 5])
    np.savez("gaps.npz", x_train=x, y_train=where[y], x_test=x_test, y_test=where[y_test])
    return Source("gaps.npz", x, x_test, where[y_test])


def unbalanced() -> Source:
    (x, y), (x_test, y_test) = _vectors(60), _vectors(31, seed=5)
    keep = (y == 0) | (np.arange(60) % 9 == 0)
    np.savez("unbalanced.npz", x=x[keep], y=y[keep])
    np.savez("unbalanced_test.npz", x=x_test, y=y_test)
    return Source("unbalanced.npz", x[keep], x_test, y_test, test="unbalanced_test.npz")


def constant_feature() -> Source:
    (x, y), (x_test, y_test) = _vectors(48), _vectors(31, seed=5)
    x[:, 3], x_test[:, 3] = 7, 7
    np.savez("constant.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return Source("constant.npz", x, x_test, y_test)


def unlabelled() -> Source:
    x, _ = _vectors(40)
    np.save("unlabelled.npy", x)
    return Source("unlabelled.npy", x, x)


def two_samples() -> Source:
    x, y = _vectors(2)
    np.savez("two.npz", x=x, y=y)
    return Source("two.npz", x, x, y)


def one_sample() -> Source:
    x, y = _vectors(1)
    np.savez("one.npz", x=x, y=y)
    return Source("one.npz", x, x, y)


def bytes_last() -> Source:
    (x, y), (x_test, y_test) = _images(36), _images(25, seed=7)
    np.savez("bytes.npz", images_train=x, labels_train=y, images_test=x_test, labels_test=y_test)
    return Source("bytes.npz", _seen(x), _seen(x_test), y_test)


def floats_first() -> Source:
    (x, y), (x_test, y_test) = _images(36), _images(25, seed=7)
    np.savez("floats.npz", x_train=_seen(x), y_train=y, x_test=_seen(x_test), y_test=y_test)
    return Source("floats.npz", _seen(x), _seen(x_test), y_test)


def maps() -> Source:
    (x, _), (x_test, _) = _images(24), _images(13, seed=7)
    y, y_test = (np.digitize(a.mean(-1), [80, 140]) for a in (x, x_test))
    np.savez("maps.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return Source("maps.npz", _seen(x), _seen(x_test), y_test)


def signals() -> Source:
    x, y = _random().standard_normal((36, 2, 12)), _random(1).integers(0, 3, 36)
    np.savez("signals.npz", x=x, y=y)
    return Source("signals.npz", x.astype(np.float32), x.astype(np.float32), y)


def sequences() -> Source:
    x, y = _random().standard_normal((36, 6, 3)).astype(np.float32), _random(1).integers(0, 3, 36)
    np.savez("sequences.npz", x=x, y=y)
    return Source("sequences.npz", x, x, y)


def films() -> Source:
    x, y = _random().standard_normal((20, 1, 4, 6, 6)).astype(np.float32), _random(1).integers(0, 3, 20)
    np.savez("films.npz", x=x, y=y)
    return Source("films.npz", x, x, y)


def padded_tokens() -> Source:
    x, y = _tokens(36, first=1)
    x[np.arange(7) >= _random(3).integers(1, 8, 36)[:, None]] = 0
    np.savez("padded.npz", x=x.astype(np.int32), y=y)
    return Source("padded.npz", x, x, y)


def seen_and_unseen() -> Source:
    """The test part holds tokens that the training part lacks."""
    (x, y), (x_test, y_test) = _tokens(36, vocabulary=7), _tokens(20, seed=4)
    np.savez("unseen.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return Source("unseen.npz", x, x_test, y_test)


def beyond_vocabulary() -> Source:
    """A token that no row of the embedding is for, late in the test part."""
    (x, y), (x_test, y_test) = _tokens(36), _tokens(20, seed=4)
    x_test[17, 3] = 13
    np.savez("beyond.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return Source("beyond.npz", x, x_test, y_test)


def text() -> Source:
    rows, _ = _tokens(30, length=7)
    following = rows[:, 1:].copy()
    following[::3, 0] = -100
    np.savez("text.npz", x=rows[:, :-1], y=following)
    return Source("text.npz", rows[:, :-1], rows[:, :-1], following)


def _write_folder(folder: Path, x: Array, y: Array, *, modes: tuple[str, ...] = ("RGB",)) -> tuple[Array, Array]:
    """One folder a class; the images in the order of their paths, and their labels."""
    names = ("an apple", "pear #2", "zoé")
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        mode, suffix = modes[i % len(modes)], (".png", ".PNG", ".bmp")[i % 3]
        path = folder / names[label] / f"img {i:03}%20é{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(path)
    order = np.argsort(y, kind="stable")
    return _seen(x[order]), y[order]


def folder() -> Source:
    (x, y), (x_test, y_test) = _images(36), _images(25, seed=7)
    seen, _ = _write_folder(Path("fruit/train"), x, y)
    seen_test, labels = _write_folder(Path("fruit/test"), x_test, y_test)
    Path("fruit/train/.DS_Store").write_bytes(b"\0")
    Path("fruit/train/an apple/Thumbs.db").write_bytes(b"\0")
    return Source("fruit", seen, seen_test, labels)


def folder_without_a_class() -> Source:
    """Another folder to test on lacks the first class: its other two keep their numbers."""
    (x, y), (x_test, y_test) = _images(36), _images(25, seed=7)
    seen, _ = _write_folder(Path("pictures"), x, y)
    there = y_test > 0
    seen_test, labels = _write_folder(Path("newer"), x_test[there], y_test[there])
    return Source("pictures", seen, seen_test, labels, test="newer")


def folder_with_another_class() -> Source:
    source = folder_without_a_class()
    Path("newer/mango").mkdir()
    Image.new("RGB", (8, 8)).save("newer/mango/1.png")
    return source


def mixed_modes() -> Source:
    """RGBA (opaque) and palette images beside RGB ones."""
    x, y = _images(36)
    x = x // 64 * 64  # few colours, which a palette holds exactly
    seen, labels = _write_folder(Path("mixed"), x, y, modes=("RGB", "RGBA"))
    return Source("mixed", seen, seen, labels)


def gray() -> Source:
    x, y = _images(30, channels=1)
    names = ("a", "b", "c")
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        path = Path("gray", names[label], f"{i:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    order = np.argsort(y, kind="stable")
    return Source("gray", _seen(x[order]), _seen(x[order]), y[order], options=("--grayscale",))


def corrupt_image() -> Source:
    source = folder()
    path = sorted(Path("fruit/train/pear #2").iterdir())[1]
    path.write_bytes(path.read_bytes()[:60])
    return source


def noise() -> Source:
    x = np.zeros((0, 8), np.float32)
    return Source("noise:40", x, x, options=("--input-shape", "8"))


PYTHON = """
import random
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

ARRAYS = np.load("vectors.npz")

def part(split):
    return torch.from_numpy(ARRAYS["x_" + split]), torch.from_numpy(ARRAYS["y_" + split])

def build_data(split="train"):
    return part(split)

def tensor_dataset(split):
    return TensorDataset(*part(split))

class Items(Dataset):
    def __init__(self, split, change=lambda x, y: (x, y)):
        self.x, self.y = part(split)
        self.change = change
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        return self.change(self.x[i], int(self.y[i]))

def augmented(split):
    return Items(split, lambda x, y: (x + 0.3 * torch.randn(8) + np.float32(np.random.normal() * random.random()), y))

def random_in_factory(split):
    x, y = part(split)
    return x + torch.from_numpy(np.random.normal(0, 0.01, x.shape)).float(), y

def dicts(split):
    return Items(split, lambda x, y: {"image": x, "label": y})

def float_pairs(split):
    return Items(split, lambda x, y: (x, x[:2].clone()))

def itself(split):
    return Items(split, lambda x, y: (x, x))

def no_labels(split):
    return Items(split, lambda x, y: (x, None))

class Stream(IterableDataset):
    def __init__(self, split):
        self.split = split

    def __iter__(self):
        yield from zip(*part(self.split))

def stream(split):
    return Stream(split)

def loader(split):
    return DataLoader(Items(split), batch_size=5, shuffle=split == "train")

def ids_and_mask(split):
    x = torch.arange(70).view(10, 7) % 13
    return x, (x > 2).long()
"""


def python(name: str) -> Callable[[], Source]:
    def write() -> Source:
        Path("data.py").write_text(PYTHON)
        source = vectors()
        return Source(f"data.py:{name}" if name else "data.py", source.x, source.x_test, source.y_test)

    return write


def targets() -> Source:
    x, _ = _vectors(40)
    np.savez("targets.npz", x=x, y=x[:, :2] * 0.5)
    return Source("targets.npz", x, x)


def float_labels() -> Source:
    x, y = _vectors(40)
    np.savez("float_labels.npz", x=x, y=y.astype(np.float32))
    return Source("float_labels.npz", x, x)


def rows_of_labels() -> Source:
    x, y = _vectors(40)
    np.savez("rows.npz", x=x, y=np.eye(4, dtype=np.int64)[y])
    return Source("rows.npz", x, x)

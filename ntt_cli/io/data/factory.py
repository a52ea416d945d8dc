"""Data that a function in a user's Python file makes: arrays, or a torch Dataset."""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ntt_cli.config import DataOptions, Split
from ntt_cli.errors import DataError
from ntt_cli.io.data import samples
from ntt_cli.io.data.arrays import from_arrays
from ntt_cli.io.data.convert import as_inputs, as_labels
from ntt_cli.io.data.image_files import GRAY_MODES, image_pixels
from ntt_cli.io.data.images import format_images
from ntt_cli.io.data.samples import InMemory, InputSource, Samples, draw, to_unit_range
from ntt_cli.io.python_source import load_python, user_code

DEFAULT_FACTORY = "build_data"


@dataclass(frozen=True, eq=False)
class DatasetItems:
    """The items of a torch Dataset, of which each is an input or a pair of an input and a label.

    Attributes:
        dataset: any map-style Dataset.
        spec: the data as the user named it.
        options: how to format its images.
    """

    dataset: Dataset[Any]
    spec: str
    options: DataOptions

    def read(self, i: int, *, like: Tensor | None = None) -> tuple[Tensor, int | None]:
        """Input `i`, images still as uint8 `[c, h, w]`, and its label if it has one.

        Raises:
            DataError: if it is neither an input nor a pair, or the input is not `like` the others.
        """
        item = self.dataset[i]
        parts = item if isinstance(item, (tuple, list)) else [item]
        if len(parts) not in {1, 2}:
            hint = "return x or (x, y) from __getitem__"
            raise DataError(self.spec, f"item {i} of its Dataset has {len(parts)} parts", hint=hint)
        x = self._input(i, parts[0])
        if like is not None and (x.shape, x.dtype) != (like.shape, like.dtype):
            what = f"input {i} of its Dataset is {_in_words(x)}, others are {_in_words(like)}"
            raise DataError(self.spec, what, hint="bring them to one shape and type, images by --image-size")
        return x, self._label(i, parts[1]) if len(parts) == 2 else None

    def _input(self, i: int, raw: object) -> Tensor:
        if isinstance(raw, Image.Image):
            x = image_pixels(raw, "L" if raw.mode in GRAY_MODES else "RGB")[None]
        elif isinstance(raw, (Tensor, np.ndarray)) and raw.ndim > 0:
            x = as_inputs(raw[None], self.spec, numbers=torch.tensor([i]))
        else:
            what = f"input {i} of its Dataset is a {type(raw).__name__}, not a tensor, an array or an image"
            raise DataError(self.spec, what, hint="return such an x, or (x, y), from __getitem__")
        return format_images(x, self.options, self.spec)[0]

    def _label(self, i: int, raw: Any) -> int:
        try:
            return operator.index(raw)
        except TypeError as failure:
            what = f"the label of item {i} of its Dataset is {raw!r}, not a whole number"
            raise DataError(self.spec, what, hint="return the number of the class as y") from failure


@dataclass(frozen=True, eq=False)
class LazyItems:
    """Inputs of a Dataset that is too large for memory, asked for whenever they are fetched."""

    items: DatasetItems
    path: Path
    numbers: Tensor
    like: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def fetch(self, indices: Tensor) -> Tensor:
        with user_code(self.path, DataError):
            inputs = [self.items.read(i, like=self.like)[0] for i in self.numbers[indices].tolist()]
        return to_unit_range(torch.stack(inputs))


def read_factory(path: Path, name: str, *, spec: str, split: Split, options: DataOptions) -> Samples:
    """What the function `name` in the file returns: inputs, `(inputs, labels)` or a map-style torch Dataset.

    The function may take the keyword `split`. Of a Dataset every item is read once, unless they do not fit into memory.

    Raises:
        DataError: if there is no such function, it fails, or it returns something else.
    """
    factory = _find_factory(path, name)
    divided = _takes_split(factory)
    with user_code(path, DataError):
        made = factory(split=split) if divided else factory()
    part = split if divided else None
    if isinstance(made, Dataset):
        return _read_dataset(DatasetItems(made, spec, options), path, part)
    inputs, labels = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(inputs, (Tensor, np.ndarray)):
        raise DataError(
            spec,
            f"returned a {type(made).__name__}",
            hint="return inputs, (inputs, labels) as tensors or arrays, or a torch Dataset",
        )
    if isinstance(labels, (list, tuple)):
        labels = np.asarray(labels)
    if not isinstance(labels, (Tensor, np.ndarray, type(None))):
        raise DataError(spec, f"returned {type(labels).__name__} labels", hint="return an array of whole numbers")
    return from_arrays(inputs, labels, spec=spec, options=options, split=part)


def _find_factory(path: Path, name: str) -> Callable[..., object]:
    module = load_python(path, DataError)
    factory: object = getattr(module, name, None)
    if callable(factory):
        return factory
    what = f"defines no {name}()" if factory is None else f"{name} is a {type(factory).__name__}, not a function"
    functions = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    near = difflib.get_close_matches(name, functions, n=1)
    hint = f"did you mean {path}:{near[0]}?" if near else f"define {name}() there, or name another: {path}:NAME"
    raise DataError(path, what, hint=hint)


def _takes_split(factory: Callable[..., object]) -> bool:
    try:
        return "split" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # something written in C
        return False


def _read_dataset(items: DatasetItems, path: Path, split: Split | None) -> Samples:
    if not hasattr(items.dataset, "__len__"):
        hint = "return a map-style Dataset, with __len__ and __getitem__"
        raise DataError(items.spec, f"its {type(items.dataset).__name__} has no length", hint=hint)
    with user_code(path, DataError):
        n = len(items.dataset)
    if n == 0:
        raise DataError(items.spec, "its Dataset is empty", hint="return one that has items")
    numbers = draw(n, items.options.limit)
    labels: list[int] = []
    with user_code(path, DataError):
        like, _ = items.read(int(numbers[0]))
        fits = like.nbytes * len(numbers) <= samples.EAGER_BYTES
        kept = torch.empty((len(numbers) if fits else 0, *like.shape), dtype=like.dtype)
        for row, i in enumerate(numbers.tolist()):
            x, label = items.read(i, like=like)
            if fits:
                kept[row] = x
            if label is not None:
                labels.append(label)
            if len(labels) not in {0, row + 1}:
                has = "no label" if label is None else "a label"
                raise DataError(
                    items.spec, f"item {i} of its Dataset has {has}, unlike others", hint="label all or none"
                )
    source: InputSource = InMemory(kept) if fits else LazyItems(items, path, numbers, like)
    y = as_labels(np.asarray(labels), items.spec, n=len(numbers)) if labels else None
    return Samples(spec=items.spec, source=source, labels=y, split=split)


def _in_words(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"

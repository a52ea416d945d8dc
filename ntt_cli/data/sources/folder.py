"""Folders of images: divided into `train/` and `test/`, one folder a class, or any arrangement without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from ntt_cli.config import DataOptions, Split
from ntt_cli.data.samples import PARTS, Samples, draw
from ntt_cli.data.sources.image_files import SUFFIXES, open_images
from ntt_cli.errors import DataError
from ntt_cli.files.atomic import require_text

ALIASES = {"training": "train", "testing": "test", "valid": "val", "validation": "val"}
"""Other names of the parts of a divided folder, in lower or upper case."""


@dataclass(frozen=True)
class ImageTree:
    """The images below a folder, with the labels that their class folders give them."""

    paths: list[Path]
    labels: list[int] | None = None
    class_names: tuple[str, ...] | None = None
    only_folder: str | None = None


def read_folder(folder: Path, *, spec: str, split: Split, options: DataOptions) -> Samples:
    """The images below a folder, without hidden files and files that are not images.

    A folder whose images are all in `train/`, `test/` and `val/` is divided, and the one for `split` is read.
    """
    parts = _parts(folder)
    tree = _find_part(parts, spec=spec, split=split) if parts else find_images(folder)
    chosen = draw(len(tree.paths), options.limit).tolist()
    return Samples(
        spec=spec,
        source=open_images([tree.paths[i] for i in chosen], options),
        labels=None if tree.labels is None else torch.tensor([tree.labels[i] for i in chosen]),
        class_names=tree.class_names,
        split=split if parts else None,
        only_folder=tree.only_folder,
    )


def find_images(folder: Path, *, classes: tuple[str, ...] | None = None) -> ImageTree:
    """The images below a folder, in the order of their paths.

    Two or more sub-folders with images, and no images beside them, are classes, numbered in the order of their names.
    Any other folder is unlabelled, unless the `classes` are known, in the order of the labels; so is one with a single
    sub-folder.

    Raises:
        DataError: if there are no images, a class folder is empty, or one is not among `classes`.
    """
    subfolders, direct = next(_visible(folder))
    below = {sub: list(_images_below(sub)) for sub in subfolders}
    filled = sum(map(bool, below.values()))
    if direct or filled == 0 or (filled == 1 and classes is None):
        paths = sorted(chain(direct, *below.values()))
        if not paths:
            hint = f"name a folder with images in it or below it: {' '.join(sorted(SUFFIXES))}"
            raise DataError(folder, "holds no images", hint=hint)
        only = next(sub.name for sub, found in below.items() if found) if filled == 1 and not direct else None
        return ImageTree(paths, only_folder=only)
    known = tuple(sub.name for sub in below) if classes is None else classes
    for sub, found in below.items():
        require_text(sub.name, DataError)
        if sub.name not in known:
            raise DataError(sub, "is not one of the training classes", hint=f"those are {', '.join(known)}")
        if not found and classes is None:  # without it, the numbers of the classes after it would shift
            raise DataError(sub, "holds no images, and the folders beside it are classes", hint="fill it or remove it")
    labels = [known.index(sub.name) for sub, found in below.items() for _ in found]
    return ImageTree(list(chain(*below.values())), labels, known)


def _parts(folder: Path) -> dict[str, Path]:
    # By the names in `PARTS`; empty if the folder is not divided.
    parts: dict[str, Path] = {}
    subfolders, images = next(_visible(folder))
    others = [path.name for path in images[:1]]
    for sub in subfolders:
        name = ALIASES.get(sub.name.lower(), sub.name.lower())
        if name not in chain.from_iterable(PARTS.values()):
            others += [f"{sub.name}/"] if any(_images_below(sub)) else []
        elif name in parts:
            both = f"{parts[name].name}/ and {sub.name}/"
            raise DataError(folder, f"has both {both}", hint="join them, or name one of them as the data")
        else:
            parts[name] = sub
    if others and len(parts) == 1:
        return {}  # a class named "train"
    if others and parts:
        there = ", ".join(others[:5]) + ", …" * (len(others) > 5)
        names = " and ".join(f"{sub.name}/" for sub in parts.values())
        hint = f"move those elsewhere, or name one folder, like {next(iter(parts.values()))}"
        raise DataError(folder, f"has {names}, and images beside them: {there}", hint=hint)
    return parts


def _find_part(parts: dict[str, Path], *, spec: str, split: Split) -> ImageTree:
    wanted = [name for name in PARTS[split] if name in parts]
    if not wanted:
        missing = " or ".join(f"{name}/" for name in PARTS[split])
        there = ", ".join(f"{sub.name}/" for sub in parts.values())
        raise DataError(spec, f"has {there} but no {missing}", hint=f"add {missing}, or name a folder within")
    classes = None if split == "train" or "train" not in parts else find_images(parts["train"]).class_names
    return find_images(parts[wanted[0]], classes=classes)


def _images_below(top: Path) -> Iterator[Path]:
    return chain.from_iterable(images for _, images in _visible(top))


def _visible(top: Path) -> Iterator[tuple[list[Path], list[Path]]]:
    # The folders and images in a folder, and then in those below it, in the order of their names, without hidden ones
    # and folders of other programs, such as __MACOSX.
    for folder, subfolders, names in os.walk(top, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__")))
        images = [name for name in sorted(names) if name[0] != "." and Path(name).suffix.lower() in SUFFIXES]
        yield [Path(folder, name) for name in subfolders], [Path(folder, name) for name in images]


def _refuse(failure: OSError) -> None:
    raise DataError(str(failure.filename), f"cannot be listed: {failure.strerror}", hint="check its permissions")

"""The names of classes that a Dataset gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ntt_cli.errors import DataError


def class_names(dataset: object, spec: str) -> tuple[str, ...] | None:
    # Names in the order of their labels, from `classes` or `class_to_idx` as in torchvision's data sets. A `Subset` has
    # the names of its Dataset. A `ConcatDataset` has names if all of its Datasets have the same.
    for attribute in ("classes", "class_to_idx"):
        if (names := _as_names(getattr(dataset, attribute, None))) is not None:
            return names
    if (within := getattr(dataset, "dataset", None)) is not None:
        return class_names(within, spec)
    joined = getattr(dataset, "datasets", None)
    if not isinstance(joined, list | tuple):
        return None
    found = {class_names(one, spec) for one in joined}
    if len(named := [names for names in found if names is not None]) > 1:
        first, second, *_ = sorted(named)
        what = f"joins Datasets whose labels mean different classes: {', '.join(first)} and {', '.join(second)}"
        raise DataError(spec, what, hint="number the classes of all of them in one order")
    return found.pop() if len(found) == 1 else None


def _as_names(given: object) -> tuple[str, ...] | None:
    """Names from a sequence by label, or from a mapping of names to labels or labels to names."""
    if isinstance(given, Mapping):
        pairs = [pair if isinstance(pair[0], str) else pair[::-1] for pair in given.items()]
        by_label = {label: name for name, label in pairs}
        if set(by_label) != set(range(len(given))):
            return None
        given = [by_label[label] for label in range(len(given))]
    names = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None

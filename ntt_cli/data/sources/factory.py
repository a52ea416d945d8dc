"""Data from a function in a user's Python file: arrays, or a torch Dataset."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ntt_cli.config import DataOptions, Split
from ntt_cli.data.convert import SEVERAL, inputs_and_labels, is_raw, kind_of
from ntt_cli.data.samples import Samples, refuse_workers
from ntt_cli.data.sources.arrays import from_pair
from ntt_cli.data.sources.collection import read_collection
from ntt_cli.errors import DataError
from ntt_cli.runtime.python_source import load_python, user_code
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do

DEFAULT_FACTORY = "build_data"
TAKEN = "return inputs, (inputs, labels) as tensors or arrays, or a torch Dataset or DataLoader"


def read_factory(
    path: Path, name: str, *, spec: str, split: Split, options: DataOptions, labelled: bool = True
) -> Samples:
    """The samples that the function `name` in the file returns: inputs, `(inputs, labels)` or a map-style Dataset.

    The function may take the keyword `split`. Its draws from global generators are the same in every call.

    Raises:
        DataError: if there is no such function, it fails, or it returns something else.
    """
    with global_draws_apart():
        seed_as_users_do(0)
        factory = _find_factory(path, name)
        divided = _takes_split(factory)
        with user_code(path, DataError):
            made = factory(split=split) if divided else factory()
    part = split if divided else None
    found = read_collection(made, options, labelled=labelled, spec=spec, path=path)
    if found is not None:
        return replace(found, split=part)
    inputs, labels, labels_name = inputs_and_labels(made, spec) if not isinstance(made, list) else (made, None, None)
    if not is_raw(inputs):
        what, hint = _why_not_taken(made)
        raise DataError(spec, what, hint=hint)
    refuse_workers(options, spec, "arrays are in memory already")
    found = from_pair(inputs, labels, spec=spec, options=options, labelled=labelled, split=part)
    return replace(found, labels_name=labels_name)


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
    except (TypeError, ValueError):  # a function written in C
        return False


def _why_not_taken(made: object) -> tuple[str, str]:
    what, hint = f"returned {kind_of(made)}", TAKEN
    if isinstance(made, (tuple, Mapping)):
        hint = f"{TAKEN}; {SEVERAL}"
    elif isinstance(made, list) and made and isinstance(made[0], np.ndarray):
        hint = f"{TAKEN}: torch.stack makes one of them, which must be of one shape"
    return what, hint

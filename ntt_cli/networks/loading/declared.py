"""What a model file declares beside its network: `DATA`, `INPUT_SHAPE`, `TRAINED`, `MEAN`, `STD`, and functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ntt_cli.data.normalise import make_mean_std
from ntt_cli.errors import ModelError
from ntt_cli.files.metadata import MeanStd
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.networks.outputs import SelectOutputs, usual_logits


def declared_in(module: ModuleType, path: Path) -> dict[str, Any]:
    """The declarations of a model file, as fields of `LoadedModel`.

    Raises:
        ModelError: if one is not what it should be.
    """
    return {
        "data": _data(module, path),
        "input_shape": _shape(module, path),
        "select_outputs": _select_outputs(module, path),
        "trained": _trained(module, path),
        "mean_std": _mean_std(module, path),
        "output_mask": _output_mask(module, path),
        **_task(module, path),
    }


def _data(module: ModuleType, path: Path) -> str | None:
    data = getattr(module, "DATA", None)
    if data is None:
        return None
    if not isinstance(data, str) or not data:
        what = f"DATA is {data!r:.99}, not a string"
        raise ModelError(path, what, hint='name data as --data does, like DATA = "digits"')
    beside = path.parent / data.partition(":")[0]
    is_path = "/" in data or "." in data
    return str(path.parent / data) if is_path and beside.exists() else data


def _shape(module: ModuleType, path: Path) -> tuple[int, ...] | None:
    shape = getattr(module, "INPUT_SHAPE", None)
    if shape is None:
        return None
    if not isinstance(shape, tuple) or not shape or not all(type(size) is int and size > 0 for size in shape):
        hint = "give the shape of one sample, like INPUT_SHAPE = (1, 28, 28)"
        raise ModelError(path, f"INPUT_SHAPE is {shape!r}, not a tuple of positive whole numbers", hint=hint)
    return shape


def _trained(module: ModuleType, path: Path) -> bool:
    trained = getattr(module, "TRAINED", False)
    if not isinstance(trained, bool):
        hint = "write TRAINED = True if build_model() loads trained weights"
        raise ModelError(path, f"TRAINED is {trained!r:.99}, not True or False", hint=hint)
    return trained


def _mean_std(module: ModuleType, path: Path) -> MeanStd | None:
    declared = {name: getattr(module, name, None) for name in ("MEAN", "STD")}
    if all(value is None for value in declared.values()):
        return None
    hint = "write them like MEAN = (0.485, 0.456, 0.406) and STD = (0.229, 0.224, 0.225), or call them something else"
    numbers = []
    for name, value in declared.items():
        values = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in values):
            raise ModelError(path, f"{name} is {value!r:.99}, not a number or a tuple of numbers", hint=hint)
        numbers.append(values)
    try:
        return make_mean_std(*(tuple(map(float, values)) for values in numbers))
    except (ValueError, OverflowError) as error:
        raise ModelError(path, f"MEAN and STD do not fit: {error}", hint=hint) from error


def _select_outputs(module: ModuleType, path: Path) -> SelectOutputs:
    select_outputs = getattr(module, "logits", None)
    if select_outputs is None:
        return usual_logits
    if not inspect.isfunction(select_outputs):
        hint = "define logits(outputs) to return the logits, [n, classes], or call it something else"
        raise ModelError(path, f"logits is of type {type(select_outputs).__name__}, not a function", hint=hint)
    return select_outputs


def _task(module: ModuleType, path: Path) -> dict[str, Callable[[Any, Any], Any] | None]:
    """`loss(outputs, targets)` and `metrics(outputs, targets)`. A loss module, as in `loss = nn.MSELoss()`, will do."""
    found = {name: getattr(module, name, None) for name in ("loss", "metrics")}
    for name, function in found.items():
        if function is not None and not inspect.isfunction(function) and not isinstance(function, nn.Module):
            hint = f"define {name}(outputs, targets), or call it something else"
            raise ModelError(path, f"{name} is of type {type(function).__name__}, not a function", hint=hint)
    if found["metrics"] is not None and found["loss"] is None:
        raise ModelError(path, "defines metrics but no loss", hint="define loss(outputs, targets) too")
    return found


def _output_mask(module: ModuleType, path: Path) -> OutputMask | None:
    function = getattr(module, "output_mask", None)
    if function is None or inspect.isfunction(function):
        return function
    hint = "define output_mask(batch), or call it something else"
    raise ModelError(path, f"output_mask is of type {type(function).__name__}, not a function", hint=hint)

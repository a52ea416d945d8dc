"""The normalisation that publishers of weights name in configuration files beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ntt_cli.data.normalise import make_mean_std
from ntt_cli.files.metadata import MeanStd
from ntt_cli.files.strict_json import parse_json

MOST_BYTES = 2**24
"""The most bytes of a configuration; a larger file is something else."""

PIXELS = 255
"""The highest value of a pixel. Images are divided by it before they are normalised."""


def published_mean_std(weights: Path) -> tuple[MeanStd, str] | None:
    """Mean and deviation from a file beside the weights, and the name of that file.

    timm writes them to `config.json`, open_clip into `open_clip_config.json`, transformers into
    `preprocessor_config.json`.
    """
    folder = weights if weights.is_dir() else weights.parent
    for name, read in (
        ("config.json", _of_timm),
        ("open_clip_config.json", _of_open_clip),
        ("preprocessor_config.json", _of_transformers),
    ):
        if found := read(_configuration(folder / name)):
            return found, name
    return None


def configured_mean_std(configuration: object) -> MeanStd | None:
    """Mean and deviation from the `pretrained_cfg` of timm's networks."""
    return _mean_and_std(configuration) if isinstance(configuration, Mapping) else None


def _configuration(path: Path) -> Mapping[str, Any]:
    """The configuration in a file; empty if it cannot be read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        configuration = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return configuration if isinstance(configuration, Mapping) else {}


def _of_timm(configuration: Mapping[str, Any]) -> MeanStd | None:
    # The configuration of the weights may be a part of the network's, or all of it.
    return configured_mean_std(configuration.get("pretrained_cfg")) or _mean_and_std(configuration)


def _of_open_clip(configuration: Mapping[str, Any]) -> MeanStd | None:
    return configured_mean_std(configuration.get("preprocess_cfg"))


def _of_transformers(configuration: Mapping[str, Any]) -> MeanStd | None:
    """Mean and deviation, for images `x` in [0, 1], that have the effect of transformers' steps.

    The steps are `y = 255 * x * rescale_factor - (1 if rescale_offset else 0)`, then, only with `do_normalize`,
    `(y - image_mean) / image_std`.
    """
    if not configuration.get("do_rescale", True):
        return None  # then the range of its pixels is unknown
    normalises = configuration.get("do_normalize", True)
    if not normalises and "rescale_factor" not in configuration:
        return None
    means = _numbers(configuration.get("image_mean")) if normalises else (0.0,)
    stds = _numbers(configuration.get("image_std")) if normalises else (1.0,)
    factor = _numbers(configuration.get("rescale_factor", 1 / PIXELS))
    if means is None or stds is None or factor is None or len(factor) != 1 or not factor[0] > 0:
        return None
    scale, offset = PIXELS * factor[0], 1.0 if configuration.get("rescale_offset") else 0.0
    return _as_mean_std([(offset + mean) / scale for mean in means], [std / scale for std in stds])


def _mean_and_std(part: Mapping[str, Any]) -> MeanStd | None:
    """Mean and deviation from lists; single numbers under such common names may mean something else."""
    means, stds = part.get("mean"), part.get("std")
    if not isinstance(means, list | tuple) or not isinstance(stds, list | tuple):
        return None
    return _as_mean_std(_numbers(means), _numbers(stds))


def _as_mean_std(means: Sequence[float] | None, stds: Sequence[float] | None) -> MeanStd | None:
    if means is None or stds is None:
        return None
    try:
        return make_mean_std(means, stds)
    except ValueError:
        return None


def _numbers(value: object) -> tuple[float, ...] | None:
    """A list of numbers, one for each channel or one for all."""
    values = value if isinstance(value, list | tuple) else (value,)
    if not all(type(number) in {int, float} for number in values):
        return None
    try:
        return tuple(map(float, values))
    except OverflowError:
        return None

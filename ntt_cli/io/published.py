"""What the publishers of weights say of their inputs, in the files that a hub's folder has beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntt_cli.core.standardise import Standardisation, make_standardisation
from ntt_cli.io.strict_json import parse_json

MOST_BYTES = 2**24
"""Of a configuration; a larger file is something else."""


def published_standardisation(weights: Path) -> tuple[Standardisation, str] | None:
    """Mean and deviation that a file beside the weights names, and that file's name.

    timm writes them into `config.json`, transformers into `preprocessor_config.json`.
    """
    folder = weights if weights.is_dir() else weights.parent
    for name, keys in (("config.json", ("mean", "std")), ("preprocessor_config.json", ("image_mean", "image_std"))):
        for part in _parts(folder / name):
            usual = part.get("do_normalize", True) and part.get("do_rescale", True)
            if usual and (found := _numbers(part, *keys)):
                return found, name
    return None


def configured_standardisation(configuration: object) -> Standardisation | None:
    """Mean and deviation of the `pretrained_cfg` that timm gives its networks."""
    return _numbers(configuration, "mean", "std") if isinstance(configuration, Mapping) else None


def _parts(path: Path) -> list[Mapping[str, Any]]:
    """The configuration and the one of the weights within it; nothing where it cannot be read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return []
        configuration = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    inner = configuration.get("pretrained_cfg") if isinstance(configuration, Mapping) else None
    return [part for part in (inner, configuration) if isinstance(part, Mapping)]


def _numbers(part: Mapping[str, Any], mean: str, std: str) -> Standardisation | None:
    means, stds = part.get(mean), part.get(std)
    for numbers in (means, stds):
        if not isinstance(numbers, list | tuple) or not all(type(number) in {int, float} for number in numbers):
            return None
    assert means is not None
    assert stds is not None
    try:
        return make_standardisation([*map(float, means)], [*map(float, stds)])
    except (ValueError, OverflowError):
        return None

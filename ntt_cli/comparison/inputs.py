"""The model, weights and data of a comparison, by SHA-256: all of its trials must have the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntt_cli.config import FACTORY, CompareConfig, DataOptions, Split, method_class, method_names, method_of
from ntt_cli.data import data_sha256
from ntt_cli.data.load import SOURCE_OPTIONS, read_by
from ntt_cli.errors import OutputError
from ntt_cli.files.results import read_settings, short
from ntt_cli.files.shards import find_weights
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.runs.sources import AS_NAMED, Sources


@dataclass(frozen=True)
class Input:
    """A file or data set, as the user named it; no hash without a file, or where data change at each reading."""

    where: str
    sha256: str | None


OWN_DATA = "data of "
"""Begins the name of a setting that holds the hash of one method's own data; the method and its options follow."""


def inputs_of(
    config: CompareConfig, loaded: LoadedModel, methods: Iterable[str], sources: Sources = AS_NAMED
) -> dict[str, Input]:
    """What all trials share, and the data that some of these methods have of their own, by the names of settings."""
    found = {"model file": Input(config.model, loaded.sha256)}
    found |= {f"module {name}": Input(f"module {name}", digest) for name, digest in loaded.modules.items()}
    if config.weights is not None and config.weights != FACTORY:
        found["weights file"] = Input(config.weights, find_weights(Path(config.weights)).sha256)
    if sources.model is not None:
        found["network"] = Input(config.model, sources.weights_sha256(None))
    found["training data"] = _data(given_of(config, DataOptions.model_fields), loaded, "train", sources)
    found["test data"] = _data(test_data_of(config), loaded, "test", sources.testing())
    return found | {
        f"{OWN_DATA}{method}": own for method in methods if (own := _own_data(config, loaded, method, sources))
    }


def require_unchanged(config: CompareConfig, method: str, sources: Sources = AS_NAMED) -> None:
    """Refuse to go on if model, weights or data changed since the comparison was begun."""
    settings = read_settings(Path(config.output))
    loaded = sources.load_model(config, seed=config.seeds[0])
    found = inputs_of(config, loaded, [method], sources)
    changed = {name: now for name, now in found.items() if name in settings and settings[name] != now.sha256}
    if changed:
        others = (f"another {name}: {short(settings[name])}, not {short(now.sha256)}" for name, now in changed.items())
        what = f"changed while {config.output} was being compared: {'; '.join(others)}"
        hint = "put back what it was and give the same command again, or name another folder with --output"
        raise OutputError(next(iter(changed.values())).where, what, hint=hint)


def given_of(config: CompareConfig, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that the user gave; to pass on a default that nothing reads would be an error."""
    return {name: getattr(config, name) for name in names if name in config.model_fields_set}


def test_data_of(config: CompareConfig) -> dict[str, Any]:
    """The options of the test data: without `limit`, and without options that only the training data reads."""
    options = given_of(config, DataOptions.model_fields) | {"limit": None}
    if config.test_data is None:
        return options
    unread = SOURCE_OPTIONS - read_by(config.test_data)
    return {name: value for name, value in options.items() if name not in unread} | {"data": config.test_data}


def _own_data(config: CompareConfig, loaded: LoadedModel, method: str, sources: Sources) -> Input | None:
    """The data of a method with data options, as `ntt:data=other.npz` or `ntt:limit=100`; `None` for other methods."""
    name, options = method_of(method)
    own = {option: value for option, value in options.items() if option in DataOptions.model_fields}
    if not own:
        return None
    labelled = name in method_names() and method_class(name).needs == "labels"
    return _data(given_of(config, DataOptions.model_fields) | own, loaded, "train", sources, labelled=labelled)


def _data(
    options: dict[str, Any], loaded: LoadedModel, split: Split, sources: Sources, *, labelled: bool = True
) -> Input:
    samples = sources.load_samples(DataOptions(**options), loaded, split=split, labelled=labelled)
    return Input(samples.spec, data_sha256(samples))

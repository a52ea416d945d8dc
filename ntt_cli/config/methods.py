"""The registry of methods. Names need no torch: a method's module is imported when the method is first used."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Container, Sequence
from importlib import import_module, util
from typing import Any, TypeVar

from ntt_cli.config.words import advice

MethodType = type[Any]
"""A subclass of `ntt_cli.methods.base.Method`, which needs torch."""

M = TypeVar("M", bound=MethodType)

_PACKAGE = "ntt_cli.methods"
_REGISTERED: dict[str, MethodType] = {}


def register_method(name: str) -> Callable[[M], M]:
    """Make a method known under a name, as `ntt_cli.register_method` says.

    Raises:
        ValueError: if the name has other characters than small letters, digits and dashes, or is a built-in method's.
    """
    if not name or not all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in name):
        raise ValueError(f"{name!r} is no name of a method: use small letters, digits and dashes")

    def register(kind: M) -> M:
        if name in built_in_methods() and not kind.__module__.startswith(f"{_PACKAGE}."):
            raise ValueError(f"{name} is a method of ntt's own: choose another name")
        kind.name = name
        _REGISTERED[name] = kind
        return kind

    return register


def method_names() -> tuple[str, ...]:
    """All methods: NTT first, then the other built-in ones, then those that users registered."""
    own = built_in_methods()
    return (*own, *(name for name in _REGISTERED if name not in own))


def method_class(name: str) -> MethodType:
    """The class of a method; this imports its module."""
    if name not in _REGISTERED and name in (own := built_in_methods()):
        import_module(own[name])
    return _REGISTERED[name]


def split_method(entry: str, known: Sequence[str], taken: Container[str] = ()) -> tuple[str, dict[str, str]]:
    """A method's name and the options after it, by field: `ntt:allocation=global:steps=500`.

    `known` are the fields of all options, `taken` those that were given elsewhere.

    Raises:
        ValueError: if an option is unknown or given twice.
    """
    name, *pairs = re.split(":(?=[a-z-]+=)", entry)
    options: dict[str, str] = {}
    for pair in pairs:
        option, _, value = pair.partition("=")
        field = option.replace("-", "_")
        if field not in known:
            names = [one.replace("_", "-") for one in known]
            raise ValueError(f"{name} has no option {option}; {advice(option, names)}")
        if field in options or field in taken:
            raise ValueError(f"{option} is given twice")
        options[field] = value
    return name, options


def readers_of(option: str) -> list[str]:
    return [name for name in method_names() if option in method_class(name).reads]


def built_in_methods() -> dict[str, str]:
    """The methods that every process has, with their modules: iterative-snip is `iterative_snip.py`, ntt a folder."""
    spec = util.find_spec(_PACKAGE)
    assert spec is not None
    found = {
        module.name.replace("_", "-"): f"{_PACKAGE}.{module.name}" + ".method" * module.ispkg
        for module in pkgutil.iter_modules(spec.submodule_search_locations)
        if module.name not in {"base", "layerwise"}
    }
    return {"ntt": found["ntt"]} | found

"""Architectures of timm, which is no dependency of ntt: it is imported where a name asks for it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from ntt_cli.errors import ModelError

SPOKEN = {"true": True, "false": False}
"""`pretrained=true`, which Python writes with a capital letter."""


def build_from_timm(source: str, name: str, arguments: Mapping[str, object]) -> tuple[nn.Module, dict[str, Any], bool]:
    """The network, timm's configuration of it, and whether its weights are trained.

    Raises:
        ModelError: if timm is not installed, has no such network, or cannot build it.
    """
    try:
        import timm  # type: ignore[import-not-found,unused-ignore]  # may be installed, or not
    except ImportError as error:
        raise ModelError(source, "timm is not installed", hint="pip install timm") from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:  # behind the point there is a name of weights
        near = difflib.get_close_matches(name.lower(), known)
        hint = f"the nearest are {', '.join(near)}" if near else "timm.list_models() lists them"
        raise ModelError(source, "timm has no such network", hint=hint)
    given = {
        key: SPOKEN.get(value.lower(), value) if isinstance(value, str) else value for key, value in arguments.items()
    }
    try:
        built = timm.create_model(name, **given)
    except Exception as failure:
        hint = "mend --model-arg; pretrained=true downloads weights, and needs a network"
        raise ModelError(source, f"raised {type(failure).__name__}: {failure}", hint=hint) from failure
    return built, dict(getattr(built, "pretrained_cfg", None) or {}), bool(given.get("pretrained"))

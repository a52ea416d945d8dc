"""`--pattern N:M`: which weights have the pattern, what stays dense, and the settings that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from ntt_cli.config import PruneConfig, as_typed
from ntt_cli.config.pattern import Groups, Pattern, parse_pattern
from ntt_cli.errors import UsageError, listed
from ntt_cli.files.groups import first_broken
from ntt_cli.masks.allocation import layer_sizes
from ntt_cli.masks.masks import Slices
from ntt_cli.methods.base import Method
from ntt_cli.methods.ntt.settings import TransferSettings
from ntt_cli.networks.input_axes import InputAxis
from ntt_cli.runtime.events import EventSink, Noted
from ntt_cli.tensors import Masks


def under_pattern(
    config: PruneConfig,
    settings: TransferSettings,
    shapes: Mapping[str, torch.Size],
    axes: Mapping[str, InputAxis],
    on_event: EventSink,
) -> tuple[TransferSettings, dict[str, str]]:
    """The settings under the pattern, and the weights that stay dense, each with its reason.

    Args:
        config: with a pattern.
        settings: without it.
        shapes: of the prunable weights.
        axes: of their inputs, as far as they are known.
        on_event: is told what stays dense.

    Raises:
        UsageError: if no weight can have the pattern, or none that an option names.
    """
    assert config.pattern is not None
    pattern, names = parse_pattern(config.pattern), list(shapes)
    reasons = {name: _why_not(axes.get(name), pattern, settings.slices.get(name)) for name in names}
    dense = {name: why for name, why in reasons.items() if why is not None}
    _check_dense(config, names, dense)
    if dense:
        on_event(Noted(f"dense in spite of --pattern {pattern}: {_with_reasons(dense)}"))
    groups = {
        name: Groups(keep=pattern.keep, of=pattern.of, axis=axes[name].axis) for name in names if name not in dense
    }
    sizes = layer_sizes(shapes)
    kept = {name: size if name in dense else size // pattern.of * pattern.keep for name, size in sizes.items()}
    settings = replace(
        settings,
        density=sum(kept.values()) / sum(sizes.values()),
        allocation="layerwise",
        layer_density={name: kept[name] / size for name, size in sizes.items()},
        slices={**settings.slices, **groups},
    )
    return settings, dense


def _with_reasons(dense: Mapping[str, str]) -> str:
    return listed([f"{name} ({why})" for name, why in dense.items()])


def require_pattern(config: PruneConfig, masks: Masks, groups: Mapping[str, Groups]) -> None:
    """Refuse masks of a method that chooses them in ways of its own.

    Raises:
        UsageError: if a group keeps more or fewer weights.
    """
    for name, own in groups.items():
        if broken := first_broken(masks[name].cpu().numpy(), own):
            hint = "choose masks by ntt_cli's own masks() from scores, or choose another method"
            raise UsageError(as_typed(config, "pattern"), f"method {config.method} chose {name}{broken}", hint=hint)


def check_method(config: PruneConfig, method: Method) -> None:
    """Refuse methods that cannot follow a pattern.

    Raises:
        UsageError: if the method's weights or its counts are its own.
    """
    where = as_typed(config, "pattern")
    if method.replaces_weights:
        what = f"method {config.method} makes weights whose zeros follow no pattern"
        raise UsageError(where, what, hint="choose another method")
    if "allocation" in method.parts:
        what = "says how many weights each layer keeps, and so does the method's own allocation"
        raise UsageError(where, what, hint="leave one of them out")


def _why_not(axis: InputAxis | None, pattern: Pattern, slices: Slices | None) -> str | None:
    """Why a weight cannot have the pattern; `None`: it can."""
    if axis is None:
        return "no input axis is known"
    if axis.inputs % pattern.of:
        return f"{axis.inputs:,} inputs are no multiple of {pattern.of}"
    return "no input may lose all its weights" if slices == axis.axis else None


def _check_dense(config: PruneConfig, names: Sequence[str], dense: Mapping[str, str]) -> None:
    if len(dense) == len(names):
        hint = "choose another pattern, or --sparsity alone"
        raise UsageError(
            as_typed(config, "pattern"), f"no prunable weight can have it: {_with_reasons(dense)}", hint=hint
        )
    for pattern in config.include:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if all(name in dense for name in matching):
            what = f"has no effect with --pattern {config.pattern}: {matching[0]} stays dense, {dense[matching[0]]}"
            raise UsageError(f"--include {pattern}", what, hint="leave it out")

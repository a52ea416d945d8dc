"""The card of a checkpoint on a hub of models: Markdown behind a few lines of YAML. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files as resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ntt_cli.config.repeat import command_of
from ntt_cli.errors import listed
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.inspect import inspect
from ntt_cli.files.metadata import CheckpointRecord, describe_inputs

MOST_CLASSES = 20
"""The most classes that a card names."""


def card_of(weights: Path, *, title: str, license: str | None, build: str, files: Collection[str]) -> str:
    """The card of a checkpoint.

    Args:
        weights: the checkpoint, beside which the card will lie.
        title: the heading.
        license: the short name that hubs have for a licence, like `mit`.
        build: Python that binds `network`.
        files: the network's own, beside the checkpoint.
    """
    found = inspect(weights)
    record = found.record
    assert isinstance(record, CheckpointRecord)
    assert found.sizes is not None
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)  # noqa: S701
    environment.filters["code"] = _code
    template = resources("ntt_cli").joinpath("resources/model_card.md").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=_line(title),
        license=license,
        method=record.config.get("method") if record.kind == "prune" else None,
        layers=found.layers,
        kept=sum(layer.kept for layer in found.layers),
        prunable=sum(layer.size for layer in found.layers),
        image_size=_pixels(record.config.get("image_size")),
        grayscale=record.config.get("grayscale"),
        inputs=None if record.standardisation_source is None else describe_inputs(record.standardisation),
        classes=None if record.class_names is None else listed([_code(n) for n in record.class_names], MOST_CLASSES),
        sizes=found.sizes.in_words,
        weights=weights.name,
        network=record.model.source,
        files=sorted(files),
        versions=[f"{name} {version}" for name, version in record.versions.items()],
        sha256=file_sha256(weights),
        build=build,
        command=_command(record),
    )


def _command(record: CheckpointRecord) -> str | None:
    """The command that made it; `None` if it came from no command line, or has what no line of text can show."""
    try:
        command = command_of(record.kind, record.config)
    except ValueError:
        return None
    return command if command.isprintable() and "```" not in command else None


def _pixels(size: str | None) -> str | None:
    """`--image-size` in words: `32` and `32x40` are 32×32 and 32×40."""
    return None if size is None else "×".join((size.split("x") * 2)[:2])


def _code(text: str) -> str:
    """Text as code in Markdown, in a table too."""
    return f"`{_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()

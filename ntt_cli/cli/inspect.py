"""`ntt inspect`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.pretty import Pretty
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.render import layer_table, plain_table
from ntt_cli.cli.run import guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.errors import UsageError, listed
from ntt_cli.files.inspect import Inspection
from ntt_cli.files.metadata import CheckpointRecord, StateRecord, describe_inputs
from ntt_cli.results import LayerSummary

MOST_NAMES = 10
"""The most classes that a line shows."""

EXAMPLES = (
    "ntt inspect sparse.safetensors",
    "ntt inspect sparse.safetensors --toml > run.toml && ntt prune --config run.toml",
    "ntt inspect sparse.report.safetensors --json",
)


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint or a report.")],
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the options of a checkpoint's run, as a file for --config.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    streams = make_streams(as_json=as_json, quiet=toml)
    with guarded(streams, debug=debug):
        if toml and as_json:
            raise UsageError("--toml", "is no form of --json", hint="leave one of them out")
        inspection = ntt.inspect(file)
        streams.result(inspection, human=_summary(inspection), quiet=inspection.toml if toml else "")


def _summary(inspection: Inspection) -> RenderableType:
    head = Text.assemble((inspection.file, "bold"), f": {inspection.bytes:,} bytes, {len(inspection.tensors)} tensors")
    parts: list[RenderableType] = [head]
    if inspection.packed_record is not None:
        parts.append(Text(f"packed by ntt export from {inspection.packed_record.source}"))
    record = inspection.record
    if record is None:
        if inspection.packed_record is None:
            parts.append(Text("a plain safetensors file, not written by ntt"))
    elif isinstance(record, CheckpointRecord):
        parts += _checkpoint(record, inspection.layers)
    elif isinstance(record, StateRecord):
        run = f"an unfinished run of {record.run.model.source}"
        parts.append(Text(f"the {record.kind} of {run}, at step {record.step:,}"))
    else:
        parts.append(Text(f"the {record.kind} of {record.summary.get('output')}"))
        summary = {name: value for name, value in record.summary.items() if name not in {"layers", "epochs"}}
        parts.append(Pretty(summary, expand_all=True))
    if inspection.sizes is not None:
        parts.append(Text(f"bytes: {inspection.sizes.in_words}"))
    tensors = plain_table(["tensor", "type", "shape"])
    for name, tensor in inspection.tensors.items():
        tensors.add_row(Text(name), tensor.dtype, "×".join(map(str, tensor.shape)))
    return Group(*parts, Text(), tensors)


def _checkpoint(record: CheckpointRecord, layers: list[LayerSummary]) -> list[RenderableType]:
    weights = [layer for layer in layers if len(layer.shape) > 1]  # without biases, as in evaluate
    kept, size = sum(layer.kept for layer in weights), sum(layer.size for layer in weights)
    model = Text(f"made by ntt {record.kind} from {record.model.source}")
    if record.model.sha256:
        model.append(f" (SHA-256 {record.model.sha256[:12]}…)")
    if record.versions:
        model.append(", with " + " and ".join(f"{name} {version}" for name, version in record.versions.items()))
    head = [model, Text(f"inputs: {_inputs(record)}")]
    if record.class_names is not None:
        more = f" and {len(record.class_names) - MOST_NAMES:,} more" if len(record.class_names) > MOST_NAMES else ""
        head.append(Text(f"{len(record.class_names):,} classes: {', '.join(record.class_names[:MOST_NAMES])}{more}"))
    if not size:
        return [*head, Text("dense: nothing is pruned")]
    kept_of_size = Text(f"{kept:,} of {size:,} prunable weights kept, {1 - kept / size:.2%} sparse")
    return [*head, kept_of_size, *_patterns(record), layer_table(layers), *_channels(record)]


def _channels(record: CheckpointRecord) -> list[RenderableType]:
    """Of whole channels that are gone, how many outputs each layer keeps."""
    if record.channels is None:
        return []
    table = plain_table(["channels of"], ["kept", "of"])
    for layer, found in record.channels.items():
        heads = found.heads
        if heads is None:
            table.add_row(Text(layer), f"{found.outputs - len(found.removed):,}", f"{found.outputs:,}")
        else:
            table.add_row(Text(f"{layer}, heads"), f"{heads.kept:,}", f"{heads.heads:,}")
    return [table]


def _patterns(record: CheckpointRecord) -> list[RenderableType]:
    """Which layers have a pattern, if any has one."""
    groups = [layer.groups for layer in record.layers.values() if layer.groups is not None]
    found = Counter(f"{own.keep}:{own.of}" for own in groups)
    dense = [name for name, layer in record.layers.items() if layer.kept == math.prod(layer.shape)]
    others = f"; dense: {listed(dense)}" if dense else ""
    return [
        Text(f"pattern {pattern} in {count} of {len(record.layers)} layers{others}") for pattern, count in found.items()
    ]


def _inputs(record: CheckpointRecord) -> str:
    if record.standardisation is None and record.standardisation_source is None:
        return "no normalisation is recorded"
    named = f" ({record.standardisation_source})" if record.standardisation_source else ""
    return describe_inputs(record.standardisation) + named

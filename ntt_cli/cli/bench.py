"""`ntt bench`."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.options import build_config, with_options
from ntt_cli.cli.render import plain_table
from ntt_cli.cli.run import call, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.config import BenchConfig
from ntt_cli.timing.results import BenchReport

EXAMPLES = (
    "ntt bench sparse.safetensors --model model.py",
    "ntt bench sparse.safetensors sparse.packed.safetensors sparse.onnx --model model.py",
    "ntt bench small.safetensors small.onnx small.pt2 --model model.py --threads 1 --json",
)
MOST_USED = ("model", "data", "seconds", "threads", "json")

STYLES = {"faster": "bold green", "slower": "red", "not faster": ""}


@with_options(BenchConfig)
def bench(ctx: typer.Context, **values: Any) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    with guarded(streams, debug=values["debug"]):
        config = build_config(BenchConfig, ctx)
        report = call(streams, lambda on_event: ntt.bench(**config.given(), progress=on_event))
        ratios = "\n".join(f"{each.ratio:.3f}" for each in report.comparisons)
        streams.result(report, human=_summary(report), quiet=ratios)


def _summary(report: BenchReport) -> RenderableType:
    where = "CPU" if report.device == "cpu" else report.device
    threads = f"{report.threads} thread{'s' * (report.threads != 1)}"
    head = Text.assemble((report.checkpoint, "bold"), f" of {report.model}, on this machine: {where}, {threads}")
    parts: list[RenderableType] = [head, Text(), _bytes(report), Text(), _flops(report)]
    for samples in dict.fromkeys(each.samples for each in report.comparisons):
        parts += [Text(), _times(report, samples)]
    return Group(*parts, *_differences(report))


def _bytes(report: BenchReport) -> RenderableType:
    table = plain_table([f"{report.dense_bytes:,} bytes dense"], ["bytes", "of it", "zipped", "of it"])
    checkpoint = _short(report, report.checkpoint)
    packed = {"packed": report.packed_bytes, "packed as float16": report.packed_float16_bytes}
    rows = [(_short(report, each.file), each.bytes, each.zipped_bytes) for each in report.files]
    rows[1:1] = [(f"{checkpoint}, {name}", size, None) for name, size in packed.items()]
    for name, *sizes in rows:
        cells = [cell for each in sizes if each is not None for cell in (f"{each:,}", _share(report, each))]
        if cells:
            table.add_row(Text(f"  {name}"), *cells)
    return table


def _share(report: BenchReport, size: int) -> str:
    return f"1/{report.dense_bytes / size:.1f}" if size < report.dense_bytes else f"{size / report.dense_bytes:.2f}"


def _flops(report: BenchReport) -> RenderableType:
    """Operations, counted: of the network, and of programs that do others because channels were removed."""
    table = plain_table(["FLOPs a sample, counted, not measured"], ["", ""])
    table.add_row("  dense", f"{report.flops_dense:,}")
    if report.density is not None:
        table.add_row("  without products with zeros", f"{report.flops_sparse:,}", _part(report, report.flops_sparse))
    for each in report.files:
        if each.flops not in {None, report.flops_dense}:
            table.add_row(Text(f"  {_short(report, each.file)}"), f"{each.flops:,}", _part(report, each.flops or 0))
    return table


def _part(report: BenchReport, flops: int) -> str:
    return f"{flops / report.flops_dense:.1%}" if report.flops_dense else ""


def _times(report: BenchReport, samples: int) -> RenderableType:
    single = samples == 1
    head = "latency, one sample" if single else f"throughput, batches of {samples:,}"
    table = plain_table([head], ["ms" if single else "samples/s"])
    table.add_column("speed over dense, 95% interval", no_wrap=True)
    comparisons = [each for each in report.comparisons if each.samples == samples]
    for runtime in dict.fromkeys(each.runtime for each in comparisons):
        own = [each for each in comparisons if each.runtime == runtime]
        table.add_row(f"dense in {runtime}", _speed(own[0].dense_median, samples))
        for each in own:
            verdict = Text.assemble((f"{each.verdict}: {each.ratio:.2f}", STYLES[each.verdict]))
            verdict.append(f" ({each.low:.2f} to {each.high:.2f})")
            table.add_row(Text(f"  {_short(report, each.file)}"), _speed(each.median, samples), verdict)
    return table


def _speed(seconds: float, samples: int) -> str:
    return f"{seconds * 1e3:,.3f}" if samples == 1 else f"{samples / seconds:,.0f}"


def _short(report: BenchReport, file: str) -> str:
    """The name of a file, with its folder only if two have the same name."""
    name = PurePath(file).name
    return name if sum(PurePath(each.file).name == name for each in report.files) == 1 else file


def _differences(report: BenchReport) -> list[RenderableType]:
    """How far the outputs of other forms are from the checkpoint's."""
    table = plain_table(["largest difference of an output from the checkpoint's"], ["of the largest"])
    compared = [each for each in report.files if each.difference is not None]
    for each in compared:
        table.add_row(Text(f"  {_short(report, each.file)}"), f"{each.difference:.1e}")
    return [Text(), table] if compared else []

"""`ntt export`."""

from __future__ import annotations

from typing import Any

import typer
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.options import build_config, with_options
from ntt_cli.cli.run import call, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.config import BATCH_SIZES, ExportConfig
from ntt_cli.results import ExportReport, HubReport, PackageReport, ProgramReport

EXAMPLES = (
    "ntt export sparse.safetensors --to packed",
    "ntt export sparse.safetensors --to torch",
    "ntt export tuned.safetensors --to packed --dtype float16 -o small.safetensors",
    "ntt export tuned.safetensors --to pt2 --model model.py",
    "ntt export tuned.safetensors --to onnx --model model.py --data images/",
    "ntt export tuned.safetensors --to coreml --model model.py --dtype float16",
    "ntt export tuned.safetensors --to hub-folder --model model.py --license mit",
)
MOST_USED = ("model", "data", "to", "output", "dtype")


@with_options(ExportConfig)
def export(ctx: typer.Context, **values: Any) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    with guarded(streams, debug=values["debug"]):
        config = build_config(ExportConfig, ctx)
        report = call(streams, lambda on_event: ntt.export(**config.given(), progress=on_event))
        streams.result(report, human=_summary(report), quiet=report.output)


def _summary(report: ExportReport) -> Text:
    of = f"1/{report.dense_bytes / report.bytes:.1f} of" if report.bytes < report.dense_bytes else "for"
    lines = [f": {report.bytes:,} bytes, {of} {report.dense_bytes:,} dense"]
    if isinstance(report, ProgramReport):
        for what, named in (("inputs", report.inputs), ("outputs", report.outputs)):
            lines.append(f"{what}: {', '.join(f'{name} {shape}' for name, shape in named.items())}")
        if report.difference is None:
            lines.append("not compared with torch, for which it takes macOS and float32")
        else:
            sizes = " and ".join(map(str, BATCH_SIZES))
            lines.append(f"differs from torch by at most {report.difference:.1e}, on batches of {sizes}")
    if isinstance(report, HubReport | PackageReport):
        lines += [f"  {name}: {size:,} bytes" for name, size in report.bytes_by_file.items()]
    if isinstance(report, HubReport):
        lines.append(f"huggingface_hub.upload_folder(repo_id=..., folder_path={report.output!r}) uploads it")
    return Text.assemble((report.output, "bold"), "\n".join([*lines, f"SHA-256 {report.sha256}"]))

"""`ntt init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.run import guarded
from ntt_cli.cli.streams import make_streams

EXAMPLES = (
    "ntt init",
    "ntt init nets/small.py",
    "ntt init --from torchvision:resnet18",
    "ntt init resnet20.py --from resnet20.safetensors",
)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("model.py"),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="<source>",
            help="torchvision:NAME, whose network the file builds; or a .safetensors file, whose names and shapes it"
            " lists for you to write the network by. Default: a small network on digits.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the path alone.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    streams = make_streams(as_json=as_json, quiet=quiet)
    with guarded(streams, debug=debug):
        written = ntt.init(path, source=source, force=force)
        streams.result(written, human=Text(written.output), quiet=written.output)
        following = shlex.join(["ntt", "prune", written.output, "--sparsity", "0.9"])
        if source is not None and source.startswith("torchvision:"):
            following += " --data IMAGES --weights WEIGHTS"
        elif source is not None:
            following = f"write build_model() in it, then {following} --data INPUTS {shlex.join(['--weights', source])}"
        streams.say(f"next: {following}")

"""Write `docs/panel.svg`: the live panel of a real run, as it stands after 60% of the steps."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

from rich.console import Console

import ntt_cli as ntt
from ntt_cli.cli.progress import LivePanel
from ntt_cli.runtime.events import Event, StepsDone

SHARE = 0.6
FONT_FROM_OUTSIDE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""A page that shows the picture fetches nothing: the reader's own monospace font will do."""


def main() -> None:
    console = Console(record=True, width=88, height=30, file=io.StringIO(), force_terminal=True)
    panel = LivePanel(console)

    def take(event: Event) -> None:
        panel.take(event)
        if isinstance(event, StepsDone) and event.step == round(SHARE * panel.board.total):
            console.print(panel.render())

    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/sparse.safetensors"
        ntt.prune("sample_models/lenet_300_100.py", sparsity=0.97, output=output, progress=take)
    svg = console.export_svg(title="ntt prune sample_models/lenet_300_100.py --sparsity 0.97", unique_id="ntt")
    (Path(__file__).parent / "panel.svg").write_text(FONT_FROM_OUTSIDE.sub("", svg))


if __name__ == "__main__":
    main()

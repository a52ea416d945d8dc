"""Where a command's words go: the result to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.text import Text

from ntt_cli.errors import NttError

Mode = Literal["human", "json", "quiet"]


@dataclass(frozen=True)
class Streams:
    """The two consoles and how the result is shown."""

    out: Console
    err: Console
    mode: Mode

    def result(self, report: BaseModel, *, human: RenderableType, quiet: str) -> None:
        """Print the result once, in the chosen form."""
        if self.mode == "json":
            self.out.file.write(report.model_dump_json(indent=2) + "\n")
        elif self.mode == "quiet":
            self.out.file.write(quiet + "\n")
        else:
            self.out.print(human)
        self.out.file.flush()

    def say(self, text: str) -> None:
        """A line for the user, such as what to do next."""
        if self.mode != "quiet":
            self.err.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning, shown in every mode."""
        self.err.print(Text.assemble(("warning", "bold yellow"), ": ", text), soft_wrap=True)

    def fail(self, text: str) -> None:
        """A gate that was missed, shown in every mode."""
        self.err.print(Text.assemble(("failed", "bold red"), ": ", text), soft_wrap=True)

    def error(self, error: NttError) -> None:
        """What was wrong, where, and what to do."""
        self.err.print(Text.assemble(("error", "bold red"), f": {error.where}: {error.what}"), soft_wrap=True)
        self.err.print(Text.assemble(("hint", "bold"), f": {error.hint}"), soft_wrap=True)


def make_streams(*, as_json: bool, quiet: bool) -> Streams:
    """Consoles on the standard streams; Rich honours `NO_COLOR` and tells terminals from pipes."""
    mode: Mode = "json" if as_json else "quiet" if quiet else "human"
    return Streams(out=Console(file=sys.stdout), err=Console(file=sys.stderr), mode=mode)

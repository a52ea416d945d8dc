"""The output of a command: the result on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ntt_cli import __version__
from ntt_cli.documents import Document, ErrorDocument, ErrorSummary, Heading
from ntt_cli.errors import NttError, OutputError
from ntt_cli.pages.bounds import escaped

Mode = Literal["human", "json", "quiet"]
MOST_LETTERS = 300
"""The most characters of the subject of an error."""


class NobodyReads(BrokenPipeError):
    """The reader of ntt's own stdout closed it; other broken pipes belong to code that ntt ran."""


class SafeConsole(Console):
    """A console that shows text unchanged, with control characters escaped as in Python.

    A file's name may look like Rich's markup, and a tensor's name may contain control characters for a terminal.
    """

    def __init__(self, *, file: IO[str]) -> None:
        super().__init__(file=file, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escaped(text, keep="\n\t"), style, control)

    def on_broken_pipe(self) -> None:
        """Rich would end the process here."""
        raise NobodyReads


class TalkingConsole(SafeConsole):
    """A console for everything but the result. If its reader closes it, the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


@dataclass
class Streams:
    """The two consoles and how the result is shown; `quiet` hides progress and advice in every mode.

    `speaker` stands before the errors of one of several processes. `printed` says whether stdout has its one document.
    """

    out: Console
    err: Console
    mode: Mode
    quiet: bool
    speaker: str = ""
    begun: float = field(default_factory=time.monotonic)
    printed: bool = False

    @property
    def seconds(self) -> float:
        """How long the command has run."""
        return time.monotonic() - self.begun

    def result(self, report: Document, *, human: RenderableType, quiet: str) -> None:
        """Print the result once, in the chosen form.

        Raises:
            NobodyReads: if nobody reads it to its end.
            OutputError: if it cannot be written for another reason.
        """
        try:
            if self.mode == "json":
                self._document(report)
            elif self.mode == "quiet":
                _write_name(self.out.file, quiet)
            else:
                self.out.print(human)
            self.out.file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.out.file.close()  # or Python writes the rest again when it ends, and ends with another exit code
            if isinstance(error, BrokenPipeError):
                raise NobodyReads from error
            what = f"cannot be written to: {error.strerror}"
            raise OutputError("stdout", what, hint="redirect it to another place") from error

    def _document(self, report: Document) -> None:
        self.printed = True
        self.out.file.write(as_json_text(report, seconds=self.seconds))

    def say(self, text: str) -> None:
        """A line for the user, such as what to do next."""
        if not self.quiet:
            self.err.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning, shown in every mode."""
        if not self.speaker:  # the first process has the same one
            self._tell("warning", "bold yellow", text)

    def fail(self, text: str) -> None:
        """A gate that was missed, shown in every mode."""
        self._tell("failed", "bold red", text)

    def error(self, error: NttError) -> None:
        self._tell("error", "bold red", f"{self.speaker}{_in_a_line(error.where)}: {error.what}")
        self.hint(error.hint)

    def ended(self, where: str, what: str, *, hint: str, exit_code: int) -> None:
        """Print what ended the command as the JSON document, if that is asked for and there is no result."""
        if self.mode == "json" and not self.printed:
            error = ErrorSummary(where=where, what=what, hint=hint, exit_code=exit_code)
            with contextlib.suppress(OSError):  # nobody reads it, or it cannot be written; stderr says what happened
                self._document(ErrorDocument(error=error))
                self.out.file.flush()

    def hint(self, text: str) -> None:
        self._tell("hint", "bold", text.replace("\n", "\\n"))

    def _tell(self, word: str, style: str, text: str) -> None:
        self.err.print(Text.assemble((word, style), ": ", text), soft_wrap=True)


def make_streams(*, as_json: bool, quiet: bool) -> Streams:
    """Consoles on the standard streams; Rich honours `NO_COLOR` and tells terminals from pipes."""
    mode: Mode = "json" if as_json else "quiet" if quiet else "human"
    out, err = SafeConsole(file=_open(sys.stdout)), TalkingConsole(file=_open(sys.stderr))
    if not out.is_terminal:
        out.width = 1000  # a pipe has no width at which to wrap lines or cut names
    rank = os.environ.get("RANK", "0")
    if rank != "0" and "WORLD_SIZE" in os.environ:
        # Among the processes that torchrun starts, the first prints for all; the others print only their errors.
        return Streams(Console(file=_open(None)), err, mode, quiet=True, speaker=f"process {rank}: ")
    return Streams(out=out, err=err, mode=mode, quiet=quiet)


def _in_a_line(where: str) -> str:
    """What an error is about, which may be anything that was typed."""
    short = where if len(where) <= MOST_LETTERS else f"{where[: MOST_LETTERS // 2]}…{where[-MOST_LETTERS // 2 :]}"
    return short.replace("\n", "\\n")


def _open(stream: TextIO | None) -> TextIO:
    if stream is None:
        # Python has no stream at all for a closed one, and Rich would then take stdout for stderr.
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")  # the signs of a table are not worth losing a result for
    return stream


def as_json_text(report: Document, *, seconds: float) -> str:
    """One JSON document in ASCII, so that every terminal and encoding takes it; what is not finite becomes null."""
    heading = Heading(document=report.document, ntt_version=__version__, seconds=round(seconds, 3))
    plain = json.dumps(heading.model_dump(mode="json") | report.model_dump(mode="json"))
    return json.dumps(json.loads(plain, parse_constant=lambda _: None), indent=2) + "\n"


def _write_name(file: IO[str], name: str) -> None:
    """A path in the file system's own bytes, so that a script can use it whatever the stream's encoding is."""
    if isinstance(file, TextIOWrapper):
        file.flush()
        file.buffer.write(os.fsencode(name) + b"\n")
    else:
        file.write(name + "\n")

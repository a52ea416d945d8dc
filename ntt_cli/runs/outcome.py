"""The outcome of a run: its report and the contents of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from torch import Tensor

from ntt_cli.documents import Summary
from ntt_cli.files.atomic import report_path
from ntt_cli.files.checkpoint import Contents, write_checkpoint
from ntt_cli.files.report import write_report

S = TypeVar("S", bound=Summary)

REPORTS: dict[Literal["prune", "finetune"], Literal["prune report", "finetune report"]] = {
    "prune": "prune report",
    "finetune": "finetune report",
}


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """The outcome of a run, whether or not it wrote files.

    There are no contents of a checkpoint if the same run wrote everything before, or another process writes it.
    """

    report: S
    contents: Contents | None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def write_report(self, output: Path) -> None:
        """Write the report beside a checkpoint.

        Raises:
            OutputError: if the file system refuses.
        """
        assert self.contents is not None
        write_report(
            report_path(output),
            self.tensors,
            kind=REPORTS[self.contents.kind],
            summary=self.report,
            run_sha256=self.contents.run_sha256,
            config=self.contents.config,
        )

    def write(self, output: Path) -> None:
        """Write the checkpoint and then the report.

        Raises:
            OutputError: if the file system refuses.
        """
        assert self.contents is not None
        write_checkpoint(output, self.contents)
        self.write_report(output)

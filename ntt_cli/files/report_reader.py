"""Reads a report file. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import report_path
from ntt_cli.files.free_memory import require_memory
from ntt_cli.files.metadata import AGAIN, PackedRecord, ReportRecord, read_header

Numbers = NDArray[np.float64]
DTYPES = frozenset({"BOOL", "U8", "I32", "I64", "F16", "F32", "F64"})
"""The types that a report's tensors may have."""


@dataclass(frozen=True)
class Report:
    """A report file: its record, and its tensors except the masks, by name, in double precision.

    `config` are the options of the run; `None` in older files.
    """

    path: Path
    kind: str
    summary: dict[str, Any]
    config: dict[str, Any] | None
    numbers: dict[str, Numbers]

    def history(self, name: str) -> Numbers | None:
        """The tensor `history.NAME`; `None` if it was not recorded."""
        return self.numbers.get(f"history.{name}")


def read_report(path: Path) -> Report:
    """Read a report, given its path or that of the checkpoint beside it."""
    header = read_header(path)
    if not isinstance(header.record, ReportRecord):
        of = path.with_name(header.record.source) if isinstance(header.record, PackedRecord) else path
        beside = report_path(of)
        if header.record is None or not beside.exists():
            what = f"has no report beside it ({beside.name})"
            raise CheckpointError(path, what, hint="name a report, or a comparison's folder")
        path, header = beside, read_header(beside)
    record = header.record
    if not isinstance(record, ReportRecord):
        raise CheckpointError(path, "is not a report", hint=AGAIN)
    for name, tensor in header.tensors.items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(path, f"{name:.99} is of type {tensor.dtype}, as in no report", hint=AGAIN)
    require_memory(path, 8 * path.stat().st_size, error=CheckpointError, hint="use a machine with more memory")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"cannot be read: {error}", hint=AGAIN) from error
    numbers = {name: np.asarray(value, np.float64) for name, value in tensors.items() if not name.startswith("mask.")}
    return Report(path, record.kind, record.summary, record.config, numbers)

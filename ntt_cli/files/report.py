"""The report beside a checkpoint: what happened, as tensors, with the summary in the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from ntt_cli.files.checkpoint import pack_mask
from ntt_cli.files.hashed import tensor_hashes, write_hashed
from ntt_cli.files.metadata import ReportRecord
from ntt_cli.tensors import Masks


def mask_tensors(masks: Masks) -> dict[str, Tensor]:
    """`mask.NAME`: the mask's bits in row-major order, eight a byte, first bit highest."""
    return {f"mask.{name}": torch.from_numpy(pack_mask(mask)) for name, mask in masks.items()}


def history_tensors(history: Mapping[str, Sequence[float] | Tensor]) -> dict[str, Tensor]:
    """`history.NAME`: one float32 value a step, mask update or epoch."""
    return {f"history.{name}": torch.as_tensor(values, dtype=torch.float32) for name, values in history.items()}


def write_report(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: Literal["prune report", "finetune report"],
    summary: BaseModel,
    run_sha256: str | None = None,
    config: dict[str, Any] | None = None,
) -> None:
    record = ReportRecord(
        kind=kind,
        summary=summary.model_dump(mode="json"),
        run_sha256=run_sha256,
        config=config,
        tensors=tensor_hashes(tensors),
    )
    write_hashed(path, tensors, record)

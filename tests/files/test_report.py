from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from ntt_cli.errors import CheckpointError, OutputError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.metadata import ReportRecord, read_header
from ntt_cli.files.report import history_tensors, mask_tensors, write_report
from ntt_cli.files.report_reader import read_report


class Summary(BaseModel):
    output: str = "x.safetensors"
    losses: tuple[float, ...] = (1.0, 0.5)


def test_masks_are_packed_row_by_row_first_bit_highest() -> None:
    mask = torch.tensor([[True, False, False, True, False], [False, False, True, True, True]])
    packed = mask_tensors({"fc.weight": mask})
    assert {name: value.tolist() for name, value in packed.items()} == {"mask.fc.weight": [0b10010001, 0b11000000]}
    unpacked = np.unpackbits(packed["mask.fc.weight"].numpy(), count=mask.numel()).reshape(mask.shape)
    assert torch.equal(torch.from_numpy(unpacked).bool(), mask)


def test_history_is_float32() -> None:
    history = history_tensors({"loss": [1, 2.5], "steps": torch.tensor([7])})
    assert {name: value.tolist() for name, value in history.items()} == {
        "history.loss": [1.0, 2.5],
        "history.steps": [7.0],
    }
    assert {value.dtype for value in history.values()} == {torch.float32}


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "x.report.safetensors"
    matrix = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    write_report(path, {"matrix": matrix}, kind="prune report", summary=Summary())
    assert torch.equal(load_file(path)["matrix"], matrix)
    record = read_header(path).record
    assert isinstance(record, ReportRecord)
    assert (record.kind, record.summary) == ("prune report", {"output": "x.safetensors", "losses": [1.0, 0.5]})
    assert record.tensors == {"matrix": sha256_of(struct.pack("<6f", 0, 3, 1, 4, 2, 5))}


def test_options_are_recorded_if_they_are_known(tmp_path: Path) -> None:
    path = tmp_path / "x.report.safetensors"
    write_report(path, {}, kind="prune report", summary=Summary(), config={"steps": 3})
    assert read_report(path).config == {"steps": 3}
    write_report(path, {}, kind="prune report", summary=Summary())
    assert read_report(path).config is None
    assert b"config" not in path.read_bytes()  # as older versions wrote it


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.report.safetensors"
    write_report(path, {"loss": torch.arange(3.0)}, kind="prune report", summary=Summary())
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        with pytest.raises(CheckpointError):
            read_report(path)


def test_a_report_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.report.safetensors"
    write_report(path, {}, kind="prune report", summary=Summary())
    with pytest.raises(CheckpointError, match="is a report, not a checkpoint") as caught:
        read_checkpoint(path)
    assert caught.value.hint == "name the file without .report"


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "missing" / "x.safetensors", {}, kind="prune report", summary=Summary())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.uint16])
def test_types_that_no_report_has(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.report.safetensors"
    write_report(path, {"loss": torch.zeros(2).to(dtype)}, kind="prune report", summary=Summary())
    with pytest.raises(CheckpointError, match="loss is of type .*, as in no report"):
        read_report(path)

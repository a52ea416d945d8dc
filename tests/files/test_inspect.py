from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ntt_cli.config import PruneConfig
from ntt_cli.errors import CheckpointError
from ntt_cli.files.inspect import inspect
from ntt_cli.files.metadata import CheckpointRecord, ReportRecord, TensorRecord
from ntt_cli.pruning import prune
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")


def test_a_checkpoint_and_its_report() -> None:
    report = prune.run(PruneConfig(model=write_network("plain"), sparsity=0.8, steps=2, limit=4), lambda _: None)
    Path("plain.py").write_text("raise SystemExit('inspecting must not run this')")
    inspection = inspect(Path(report.output))
    assert inspection.bytes == Path(report.output).stat().st_size
    assert inspection.tensors["fc1.weight"] == TensorRecord(dtype="F32", shape=(16, 64))
    assert isinstance(inspection.record, CheckpointRecord)
    assert {name: layer.kept for name, layer in inspection.record.layers.items()} == {
        layer.name: layer.kept for layer in report.layers
    }
    assert inspection.record.model.source == "plain.py"
    record = inspect(Path(report.report)).record
    assert isinstance(record, ReportRecord)
    assert record.summary == report.model_dump(mode="json")


def test_a_file_that_ntt_did_not_write() -> None:
    save_file({"b": torch.zeros(2, dtype=torch.bfloat16), "a": torch.tensor(True)}, "x.safetensors")
    inspection = inspect(Path("x.safetensors"))
    assert inspection.record is None
    assert inspection.tensors == {
        "a": TensorRecord(dtype="BOOL", shape=()),
        "b": TensorRecord(dtype="BF16", shape=(2,)),
    }


def test_a_file_that_is_none() -> None:
    Path("x.safetensors").write_text("words")
    with pytest.raises(CheckpointError, match="is text, not a safetensors file"):
        inspect(Path("x.safetensors"))

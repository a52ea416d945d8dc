from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from ntt_cli import export
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.files.measured_sizes import packed_bytes, zipped_bytes
from tests.files.test_checkpoint import MASKS, STATE, write


def test_zipped_is_what_gzip_makes(tmp_path: Path) -> None:
    files = []
    for name, content in (("a", bytes(3_000_000)), ("b", bytes(range(256)) * 99)):
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    head, tail, zlibs_own = 10, 8, 6  # bytes of gzip's and of zlib's frame
    for path in files:
        made = len(gzip.compress(path.read_bytes(), 6))
        assert zipped_bytes([path]) == made - head - tail + zlibs_own
    assert zipped_bytes(files) < sum(zipped_bytes([path]) for path in files)  # as one stream


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_packed_is_what_export_writes(tmp_path: Path, dtype: str | None) -> None:
    path = write(tmp_path / "plain.safetensors", STATE, MASKS)
    written = export(path, to="packed", dtype=dtype, output=tmp_path / "p.safetensors")
    assert packed_bytes(read_checkpoint(path), file_sha256(path), dtype) == written.bytes
    assert sorted(each.name for each in tmp_path.iterdir()) == ["p.safetensors", "plain.safetensors"]


def test_half_precision_that_cannot_be_or_is_there() -> None:
    large = Checkpoint(Path("x.safetensors"), {"w": torch.tensor([1e5])}, {}, None)
    assert packed_bytes(large, None, "float16") is None
    half = Checkpoint(Path("x.safetensors"), {"w": torch.ones(9, dtype=torch.float16)}, {}, None)
    assert packed_bytes(half, None, "float16") == packed_bytes(half, None)

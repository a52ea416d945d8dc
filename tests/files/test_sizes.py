from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ntt_cli.files.inspect import inspect
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.files.sizes import packed_sizes
from ntt_cli.results import Sizes
from tests.files.packed_files import write_small


@pytest.mark.parametrize("density", [0.5, 0.1, 0.05, 0.02])
def test_estimates_are_near_what_is_written(tmp_path: Path, density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"w": torch.randn(300, 784, generator=generator) / 28, "b": torch.randn(300, generator=generator)}
    path = write_small(tmp_path, state, {"w": torch.rand(300, 784, generator=generator) < density})
    sizes = inspect(tmp_path / "plain.safetensors").sizes
    assert sizes is not None
    assert sizes.dense == 4 * (300 * 784 + 300)
    assert sizes.packed == pytest.approx(path.stat().st_size, rel=0.06)
    assert inspect(path).sizes == sizes


def test_by_hand() -> None:
    """A mask of 100 entries, 50 kept, takes 100 bits; 50 values take 26.4 bits each; head 1,600, 45 and 2 x 2 bytes."""
    tensors = {"w": TensorRecord(dtype="F32", shape=(10, 10)), "n": TensorRecord(dtype="I64", shape=())}
    bits = 100 + 8 + 8 * (1600 + 45 + 4)
    of = packed_sizes(tensors, {"w": 50})
    assert of == Sizes(dense=408, packed=round((bits + 50 * 26.4) / 8), packed_float16=round((bits + 50 * 13) / 8))
    assert packed_sizes({"w": TensorRecord(dtype="F32", shape=(4,))}, {"w": 0}).packed == 1600 + 45 + 2
    assert packed_sizes({}, {}).dense == 0


def test_in_words() -> None:
    words = Sizes(dense=1_000_000, packed=62_500, packed_float16=math.ceil(1e6 / 31)).in_words
    assert words == "1,000,000 dense, packed about 62,500 (1/16.0), as float16 about 32,259 (1/31.0)"
    assert Sizes(dense=10, packed=90, packed_float16=80).in_words == "10 dense, too few to pack"
    words = Sizes(dense=100, packed=110, packed_float16=80).in_words
    assert words == "100 dense, packed about 110, as float16 about 80 (1/1.2)"

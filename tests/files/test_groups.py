"""The groups of a pattern in files: recorded, counted, and named where they are broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ntt_cli.config.pattern import Groups
from ntt_cli.errors import CheckpointError
from ntt_cli.files.checkpoint import Contents, layer_records, read_checkpoint, write_checkpoint
from ntt_cli.files.export import Exported, convert
from ntt_cli.files.groups import first_broken
from ntt_cli.files.inspect import verify
from ntt_cli.files.metadata import ModelRecord
from ntt_cli.files.packed import write_packed

TWO_OF_FOUR = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1]).bool()
GROUPS = Groups(keep=2, of=4, axis=1)


def contents(mask: torch.Tensor, dtype: torch.dtype = torch.float32, **groups: Groups) -> Contents:
    return Contents(
        {"w": torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).to(dtype)},
        {"w": mask},
        kind="prune",
        model=ModelRecord(source="m.py", sha256=None),
        config={},
        normalisation=None,
        groups=groups,
    )


def packed(path: Path) -> Path:
    found = read_checkpoint(path)
    to = path.with_suffix(".packed.safetensors")
    write_packed(to, found.tensors, found.record, found.masks, source=(path.name, None))
    return to


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_group_is_counted_in_a_plain_and_in_a_packed_file(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, contents(TWO_OF_FOUR.expand(3, 8).contiguous(), dtype, w=GROUPS))
    assert verify(path).groups == {"2:4": 6}
    assert verify(packed(path)).groups == {"2:4": 6}
    assert read_checkpoint(path).groups == read_checkpoint(packed(path)).groups == {"w": GROUPS}


def test_the_first_group_that_breaks_its_pattern_is_named(tmp_path: Path) -> None:
    mask = TWO_OF_FOUR[None, :, None].repeat(3, 1, 2)
    mask[1, 5, 1] = mask[2, 0, 0] = True
    mask[2, 1, 0] = True
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, contents(mask, w=GROUPS))
    for file in (path, packed(path)):
        with pytest.raises(CheckpointError) as caught:
            verify(file)
        assert str(caught.value) == f"{file}: w[1, 4:8, 1] keeps 3 of 4 weights, not 2"
        assert caught.value.exit_code == 2


def test_groups_that_do_not_fit_the_shape() -> None:
    kept = np.ones((2, 6), dtype=bool)
    assert first_broken(kept, GROUPS) == " of shape 2×6 has no groups of 4 along axis 1"
    assert first_broken(kept, Groups(keep=1, of=2, axis=2)) == " of shape 2×6 has no groups of 2 along axis 2"
    assert first_broken(kept, Groups(keep=1, of=2, axis=0)) == "[0:2, 0] keeps 2 of 2 weights, not 1"


def test_files_without_a_pattern_are_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, contents(TWO_OF_FOUR[None]))
    assert verify(path).groups == verify(packed(path)).groups == {}
    assert b"groups" not in path.read_bytes()
    assert layer_records({"w": TWO_OF_FOUR})["w"].model_dump().keys() == {"shape", "kept", "mask_sha256"}


def test_kept_weights_that_another_type_makes_zero_are_still_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tiny = contents(TWO_OF_FOUR[None], w=GROUPS)
    write_checkpoint(path, replace(tiny, state={"w": torch.full((1, 8), 1e-30)}))
    found, zeros = convert(read_checkpoint(path), "float16")
    assert zeros == 4
    to = tmp_path / "y.safetensors"
    write_packed(to, found.tensors, Exported(found, None).checkpoint.record, found.masks, source=("x", None))
    assert verify(to).groups == {"2:4": 2}

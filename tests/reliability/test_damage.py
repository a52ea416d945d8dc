"""Single-bit flips and truncations of real files: none may pass. `make torture` does 10,000 of each, of each file."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ntt_cli import export
from ntt_cli.config import PruneConfig
from ntt_cli.errors import CheckpointError
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.report_reader import read_report
from ntt_cli.pruning import prune
from tests.small_networks import write_network

CASES = 10_000 if "NTT_TORTURE" in os.environ else 250


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a run wrote."""
    folder = tmp_path_factory.mktemp("damage")
    config = PruneConfig(
        model=write_network("convolutional", folder),
        sparsity=0.9,
        steps=20,
        limit=40,
        device="cpu",
        output=str(folder / "sparse.safetensors"),
    )
    prune.run(config, lambda _: None)
    export(folder / "sparse.safetensors", to="packed")
    return folder


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("sparse.safetensors", read_checkpoint),
        ("sparse.packed.safetensors", read_checkpoint),
        ("sparse.report.safetensors", read_report),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "truncation"])
def test_no_damage_passes(files: Path, tmp_path: Path, name: str, read: Callable[[Path], object], damage: str) -> None:
    whole = (files / name).read_bytes()
    damaged = tmp_path / name
    damaged.write_bytes(whole)
    read(damaged)
    chance = random.Random(0)
    for _ in range(CASES):
        at = chance.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
        damaged.write_bytes(whole[:at] if damage == "truncation" else flipped)
        with pytest.raises(CheckpointError) as caught:
            read(damaged)
        assert caught.value.where == str(damaged)
        assert caught.value.hint

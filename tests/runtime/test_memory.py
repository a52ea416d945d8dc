from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
import torch

from ntt_cli.files import free_memory
from ntt_cli.runtime import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(("limit", "there"), [("4096\n", 4096), ("max\n", None), (None, None)])
def test_a_container_has_its_own_limit(
    limit: str | None, there: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "GROUP", tmp_path)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    found = memory.memory_bytes(CPU)
    assert found is not None
    assert found == there if there else found > 2**26


def test_the_peak_grows_with_what_is_used() -> None:
    before = memory.peak_memory_bytes(CPU)
    held = torch.ones(2**26)
    after = memory.peak_memory_bytes(CPU)
    assert before is not None
    assert after is not None
    assert after >= before
    assert after >= held.nbytes


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_gaps_between_things_in_use_are_given_back() -> None:
    pieces = [torch.ones(2**14) for _ in range(2**11)]  # 128 MiB, in pieces that malloc takes from its heap
    held = pieces[::64]
    del pieces
    before = resident_bytes()
    memory.give_back_free_memory()
    assert before - resident_bytes() > 2**26
    assert all(bool((piece == 1).all()) for piece in held)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_memory_of_a_gpu() -> None:
    device = torch.device("cuda")
    held = torch.ones(2**20, device=device)
    peak, there = memory.peak_memory_bytes(device), memory.memory_bytes(device)
    assert peak is not None
    assert there is not None
    assert held.nbytes <= peak < there

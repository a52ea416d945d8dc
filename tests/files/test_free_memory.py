from __future__ import annotations

import os
from pathlib import Path

import pytest

from ntt_cli.errors import DataError
from ntt_cli.files import free_memory as memory
from ntt_cli.files.free_memory import UNKNOWN, free_memory, require_memory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the files of a machine with 8 kB to give."""
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable: 8 kB\n")
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    return tmp_path


def container(folder: Path, *, most: str, used: int, cached: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached - 1}\nactive_file 1\nfile_mapped 3\n")


def test_the_machines_memory(machine: Path) -> None:
    assert free_memory() == 8192


@pytest.mark.parametrize(
    ("most", "used", "cached", "free"),
    [("6000", 5000, 500, 1500), ("6000", 7000, 100, 0), ("90000", 5000, 500, 8192), ("max", 5000, 500, 8192)],
)
def test_the_containers_memory(machine: Path, most: str, used: int, cached: int, free: int) -> None:
    container(machine, most=most, used=used, cached=cached)
    assert free_memory() == free


def test_where_there_is_no_such_file(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "meminfo").unlink()
    assert free_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.delattr(os, "sysconf_names")
    assert free_memory() == UNKNOWN


def test_half_may_be_taken(machine: Path) -> None:
    require_memory("x.npy", 4096, error=DataError, hint="less")
    with pytest.raises(DataError, match=r"x.npy: takes 0.0 GiB of memory to read, of which 0.0 GiB are free") as caught:
        require_memory("x.npy", 4097, error=DataError, hint="less")
    assert caught.value.hint == "less"

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from ntt_cli.data.sources.idx import read_idx
from ntt_cli.files import free_memory
from tests.data.refusal import refusal

HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3])
WHOLE = HEADER + bytes(range(6))


@pytest.mark.parametrize("content", [WHOLE, gzip.compress(WHOLE, mtime=0)], ids=["plain", "gzip"])
def test_the_example_of_the_format(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_idx(path, dimensions=3), [[[0, 1, 2]], [[3, 4, 5]]])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (WHOLE[:-1], "is damaged: it promises 6 values and holds only 5"),
        (WHOLE + b"\0", "is damaged: it promises 6 values and holds more"),
        (WHOLE[:9], "is damaged: "),
        (b"", "is not an idx file of 3-dimensional bytes"),
        (b"\0\0\x0d\x03" + WHOLE[4:], "is not an idx file of 3-dimensional bytes"),
        (b"\0\0\x08\x01" + WHOLE[4:], "is not an idx file of 3-dimensional bytes"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "is damaged: "),
        (gzip.compress(WHOLE, mtime=0)[:20] + b"junkjunkjunk", "is damaged: "),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with refusal(f"{path}: {what}", hint="fetch this file again"):
        read_idx(path, dimensions=3)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((2**32 - 1,) * 3, "GiB of memory to read"),
        ((2**15,) * 3, "takes 32768.0 GiB of memory"),
        ((2**32 - 1, 0, 2**32 - 1), "it holds nothing"),
    ],
)
def test_absurd_shapes(tmp_path: Path, shape: tuple[int, int, int], what: str, *, compress: bool) -> None:
    content = struct.pack(">I3I", 0x0803, *shape)
    (tmp_path / "images").write_bytes(gzip.compress(content) if compress else content)
    with refusal(what, hint="fetch this file again"):
        read_idx(tmp_path / "images", dimensions=3)


def test_a_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = struct.pack(">I3I", 0x0803, 64, 1024, 1024) + bytes(64 * 2**20)
    (tmp_path / "images").write_bytes(gzip.compress(content))
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2**20)
    with refusal("takes 0.1 GiB of memory to read, of which 0.0 GiB are free", hint="more memory"):
        read_idx(tmp_path / "images", dimensions=3)

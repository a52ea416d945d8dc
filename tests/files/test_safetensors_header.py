from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ntt_cli.errors import CheckpointError
from ntt_cli.files import safetensors_header
from ntt_cli.files.safetensors_header import POINTER, TensorRecord, read_raw_header


def written(path: Path, header: str | bytes, content: bytes = b"") -> Path:
    text = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def entry(shape: list[int], offsets: tuple[int, int], dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_raw_header(path)
    assert caught.value.exit_code == 2
    assert caught.value.where == str(path)
    assert len(str(caught.value)) < 600
    return caught.value


def test_where_the_tensors_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[3]]), "none": torch.zeros(0, 5)}, path, {"k": "v"})
    header = read_raw_header(path)
    assert list(header.tensors.items()) == [
        ("a", TensorRecord(dtype="I64", shape=(1, 1))),
        ("b", TensorRecord(dtype="F32", shape=(2,))),
        ("none", TensorRecord(dtype="F32", shape=(0, 5))),
    ]
    data = path.read_bytes()
    assert np.frombuffer(data[header.parts["b"]], np.float32).tolist() == [1.0, 2.0]
    assert np.frombuffer(data[header.parts["a"]], np.int64).tolist() == [3]
    assert data[header.parts["none"]] == b""
    assert header.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ('{"a":' + entry([1], (0, 4)) + ',"a":' + entry([1], (0, 4)) + "}", "is ambiguous: it names 'a' twice"),
        ('{"__metadata__":{"k":"1","k":"2"},"a":' + entry([1], (0, 4)) + "}", "is ambiguous: it names 'k' twice"),
        ('{"a":' + entry([1], (0, 4)) + ',"b":' + entry([0, 2**63], (4, 4)) + "}", "b has an absurd shape, [0, 922"),
        ('{"a":' + entry([1], (0, 4)) + ',"b":' + entry([2**32, 0, 2**31], (4, 4)) + "}", "b has an absurd shape"),
        ('{"a":' + entry([1] * 65, (0, 4)) + "}", "a has an absurd shape"),
        ('{"a":' + entry([1], (0, 4)) + ',"b":' + entry([1], (0, 4)) + "}", "no whole safetensors file"),
        ('{"a":' + entry([4], (0, 16)) + "}", "is not a whole safetensors file"),
        ('{"a":' + entry([1], (4, 0)) + "}", "is not a whole safetensors file"),
        ('{"a":' + entry([2], (0, 4)) + "}", "is not a whole safetensors file"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "is not a whole safetensors file"),
        ('{"a":' + entry([1], (0, 4), "OBJECT") + "}", "is not a whole safetensors file"),
    ],
)
def test_headers_with_two_meanings_or_none(tmp_path: Path, header: str, what: str) -> None:
    error = refusal(written(tmp_path / "x.safetensors", header, bytes(4)))
    assert what.removeprefix("no ") in str(error)
    assert error.hint.startswith(("do not trust this file", "copy or make it again"))


def test_the_most_dimensions_and_entries_of_one_tensor(tmp_path: Path) -> None:
    for shape in ([1] * 64, [1, 2**63 - 1, 0]):
        content = bytes(0 if 0 in shape else 4)
        path = written(tmp_path / "x.safetensors", '{"a":' + entry(shape, (0, len(content))) + "}", content)
        assert read_raw_header(path).tensors["a"].shape == tuple(shape)


def test_long_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.safetensors", '{"a":' + entry([1], (0, 4)) + "}" + " " * 1000, bytes(4))
    length = path.stat().st_size - 12
    monkeypatch.setattr(safetensors_header, "HEADER_BYTES", length)
    read_raw_header(path)
    monkeypatch.setattr(safetensors_header, "HEADER_BYTES", length - 1)
    assert f"has a header of {length:,} bytes; at most {length - 1:,} are read" in str(refusal(path))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 99 * 10**6, 20 * 2**20])
def test_a_header_longer_than_the_file(tmp_path: Path, length: int) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    assert "is not a whole safetensors file" in str(refusal(tmp_path / "x.safetensors"))


def test_a_pickle_under_another_name(tmp_path: Path) -> None:
    for legacy in (False, True):
        torch.save({"w": torch.ones(2)}, tmp_path / "x.safetensors", _use_new_zipfile_serialization=not legacy)
        error = refusal(tmp_path / "x.safetensors")
        assert "may hold a pickle" in str(error)
        assert "save_file" in error.hint


def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", ('{"a":' + entry([1], (0, 4)) + "}").ljust(0x280), bytes(4))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert list(read_raw_header(path).tensors) == ["a"]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    assert "is a device or a pipe" in str(refusal(tmp_path / "x.safetensors"))
    assert "is a device or a pipe" in str(refusal(Path("/dev/zero")))


@pytest.mark.parametrize("name", ["a" * 5000 + ".safetensors", "a\0b.safetensors", "a\udcff.safetensors"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_raw_header(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "what", "hint"),
    [
        ("model.py", b"import torch\n", "is a Python file", "name the weights, a .safetensors file"),
        ("config.json", b' {"a": 1}', "is JSON", "name a safetensors file"),
        ("x.safetensors", b"<!DOCTYPE html><html>", "is a web page", "download the file itself"),
        (
            "x.safetensors",
            POINTER.encode() + b"v1",
            "is a pointer of Git LFS",
            "git lfs pull",
        ),
        ("x.safetensors", b"", "is empty", "copy or make it again"),
        ("x.txt", "Gr\u00fc\u00dfe ".encode() * 200, "is text", "name a safetensors file"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file", ""),
        ("x.gguf", b"GGUF\x03\x00\x00\x00", "is a GGUF file", ""),
        ("x.npy", b"\x93NUMPY\x01\x00", "is a .npy file", ""),
        ("x.gz", b"\x1f\x8b\x08\x00", "is a gzip archive", ""),
    ],
)
def test_files_that_plainly_are_something_else(tmp_path: Path, name: str, content: bytes, what: str, hint: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert error.what == f"{what}, not a safetensors file"
    assert hint in error.hint

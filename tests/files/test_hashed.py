from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save

from ntt_cli.errors import OutputError
from ntt_cli.files import hashed as hashed
from ntt_cli.files.hashed import DTYPES, can_be_named, can_hold, tensor_hashes, write_hashed
from ntt_cli.files.metadata import NO_HASH, FileRecord, Header, ReportRecord, encode_record, put_file_hash, read_header

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 3), max_size=4)


def record_of(tensors: dict[str, torch.Tensor]) -> FileRecord:
    return ReportRecord(kind="prune report", summary={}, tensors=tensor_hashes(tensors))


def numbered(shape: list[int], dtype: torch.dtype, first: int) -> torch.Tensor:
    count = int(torch.tensor(shape, dtype=torch.int64).prod())
    return (torch.arange(first, first + count) % 7).to(torch.float32).to(dtype).reshape(shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sealed")


@given(st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(list(DTYPES)), st.integers(0, 6)), max_size=8))
@settings(max_examples=200, deadline=None)
def test_the_bytes_are_those_of_safetensors(
    folder: Path, described: dict[str, tuple[list[int], torch.dtype, int]]
) -> None:
    tensors = {name: numbered(*each) for name, each in described.items()}
    record = record_of(tensors)
    write_hashed(folder / "x.safetensors", tensors, record)
    written = (folder / "x.safetensors").read_bytes()
    assert written == put_file_hash(save(tensors, encode_record(record)))
    assert NO_HASH.encode() not in written


def test_every_type_at_once_in_the_order_of_safetensors(tmp_path: Path) -> None:
    tensors = {str(dtype): numbered([3], dtype, 0) for dtype in DTYPES}
    record = record_of(tensors)
    write_hashed(tmp_path / "x.safetensors", tensors, record)
    assert (tmp_path / "x.safetensors").read_bytes() == put_file_hash(save(tensors, encode_record(record)))
    assert {name: str(value.dtype) for name, value in load_file(tmp_path / "x.safetensors").items()} == {
        name: name for name in tensors
    }
    types = {name: entry.dtype for name, entry in read_header(tmp_path / "x.safetensors").tensors.items()}
    assert types == {str(dtype): known for dtype, known in DTYPES.items()}


def test_any_layout_and_memory_that_is_shared(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(2, 3, 2, 2)
    tensors = {
        "last": base.to(memory_format=torch.channels_last),
        "same": base,
        "transposed": base.view(4, 6).T,
        "strided": torch.arange(10)[::3],
        "expanded": torch.ones(1).expand(3),
        "parameter": torch.nn.Parameter(base),
    }
    write_hashed(tmp_path / "x.safetensors", tensors, record_of(tensors))
    read_header(tmp_path / "x.safetensors")  # checks the file's own SHA-256
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value), name


def test_the_file_in_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.tensor([1.0]), "a": torch.tensor([2.0]), "n": torch.tensor([3])}
    record = record_of(tensors)
    write_hashed(tmp_path / "x.safetensors", tensors, record)
    data = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert data[8 + length :] == b"\x03" + bytes(7) + b"\x00\x00\x00\x40" + b"\x00\x00\x80\x3f"
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == ["__metadata__", "n", "a", "b"]
    assert header["n"] == {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}
    assert header["b"] == {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}


def test_tensors_are_not_copied(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2**20), "b": torch.ones(2**20)}
    tracemalloc.start()  # sees Python's and NumPy's memory
    write_hashed(tmp_path / "x.safetensors", tensors, record_of(tensors))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_folder_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_hashed(tmp_path / "none" / "x.safetensors", {"a": torch.ones(1)}, record_of({"a": torch.ones(1)}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (torch.ones(2), True),
        (torch.ones(2, dtype=torch.complex64), True),
        (torch.ones(2, dtype=torch.complex128), False),
        (torch.ones(2, 2).to_sparse(), False),
    ],
)
def test_what_can_be_held(value: torch.Tensor, held: bool) -> None:
    assert can_hold(value) is held


@pytest.mark.parametrize("spoil", ["name", "bit", "end"])
def test_what_cannot_be_read_again_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("mine")
    tensors = {"__metadata__" if spoil == "name" else "a": torch.ones(4)}

    def read(written: Path) -> Header:  # as from a disk that lies
        data = bytearray(written.read_bytes())
        if spoil == "bit":
            data[-1] ^= 1
        if spoil == "end":
            del data[-4:]
        written.write_bytes(data)
        return read_header(written)

    monkeypatch.setattr(hashed, "read_header", read)
    with pytest.raises(OutputError, match="was written and cannot be read again: ") as caught:
        write_hashed(path, tensors, record_of(tensors))
    assert caught.value.exit_code == 2
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


NAMED = [("a.b", True), ("\u00e9 \U0001f600", True), ("__metadata__", False), ("a\ud800", False)]


@pytest.mark.parametrize(("name", "fits"), NAMED)
def test_names(name: str, fits: bool) -> None:
    assert can_be_named(name) == fits

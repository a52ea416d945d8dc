from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from ntt_cli.errors import CheckpointError
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.hashed import bytes_of
from ntt_cli.files.metadata import read_header
from ntt_cli.files.packed import write_packed
from tests.files.packed_files import RECORD, Edit, invented, sealed, unpacked_parts, write_small
from tests.files.test_checkpoint import MASKS, STATE, weights_and_masks

ROOT = Path(__file__).parents[2]


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert (caught.value.exit_code, caught.value.where) == (2, str(path))
    assert caught.value.hint
    return caught.value


def same_bits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(
        (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape)
        and bytes_of(value) == bytes_of(theirs[name])
        for name, value in ours.items()
    )


def test_golden_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand; only how zstd compresses each part is zstd's own."""
    monkeypatch.setattr("ntt_cli.files.checkpoint.__version__", "1.2.3")
    monkeypatch.setattr(torch, "__version__", "4.5.6")
    path = write_small(tmp_path)
    index, parts = unpacked_parts(path)
    assert index["tensors"] == {
        "fc.bias": {"dtype": "F32", "kept": None, "shape": [2]},
        "fc.weight": {"dtype": "F32", "kept": 3, "shape": [2, 2]},
        "steps": {"dtype": "I64", "kept": None, "shape": []},
    }
    assert list(index["tensors"]) == sorted(index["tensors"])
    plain = read_header(tmp_path / "plain.safetensors").record
    assert plain is not None
    assert index["record"] == plain.model_dump(mode="json") | {"tensors": {}}
    # 0.0, 0.5 of the bias, then 1.5, the smallest normal number, and -2.0: 00000000 3f000000 3fc00000 00800000 c0000000
    planes = b"\0\0\0\0\0", b"\0\0\0\0\0", b"\0\0\xc0\x80\0", b"\0\x3f\x3f\0\xc0"
    assert parts == {"masks": b"\xb0", "values.F32": b"".join(planes), "values.I64": b"\3" + bytes(7)}


def test_frames_that_no_version_of_zstd_made_are_read(tmp_path: Path) -> None:
    """By hand, a raw block each."""

    def frame(data: bytes) -> bytes:
        block = (len(data) << 3 | 1).to_bytes(3, "little")
        return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + block + data

    index = {"record": None, "tensors": {"w": {"dtype": "F16", "kept": 1, "shape": [3]}}}
    parts = {"index": json.dumps(index).encode(), "masks": b"\x40", "values.F16": b"\x00\x3e"}
    path = tmp_path / "x.safetensors"
    path.write_bytes(sealed(RECORD, {name: frame(data) for name, data in parts.items()}))
    assert torch.equal(read_checkpoint(path).tensors["w"], torch.tensor([0.0, 1.5, 0.0], dtype=torch.float16))


@settings(deadline=None, max_examples=30)
@given(weights_and_masks(), weights_and_masks())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    others = {"dense": first[0], "steps": torch.tensor(7), "flags": second[1], "none": torch.zeros(0, 3)}
    masks = {"first": first[1], "second": second[1]}
    packed = read_checkpoint(write_small(folder, {"first": first[0], "second": second[0]} | others, masks))
    plain = read_checkpoint(folder / "plain.safetensors")
    assert same_bits(packed.tensors, dict(sorted(plain.tensors.items())))
    assert packed.masks.keys() == plain.masks.keys()
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in packed.masks.items())
    assert plain.record is not None
    assert packed.record == plain.record.model_copy(update={"tensors": {}})
    assert (packed.normalisation, packed.class_names) == (plain.normalisation, plain.class_names)


def test_the_same_bytes_again(tmp_path: Path) -> None:
    first = write_small(tmp_path).read_bytes()
    assert write_small(tmp_path).read_bytes() == first


SPARSE = torch.where(torch.rand(64, 50, generator=torch.Generator().manual_seed(0)) < 0.9, 0.0, torch.randn(64, 50))


def test_a_file_that_ntt_did_not_write(tmp_path: Path) -> None:
    tensors = {"minus": -torch.zeros(8, 8), "sparse": SPARSE, "ones": torch.ones(3), "flags": SPARSE == 1}
    save_file(tensors, tmp_path / "plain.safetensors")
    path = tmp_path / "packed.safetensors"
    write_packed(path, tensors, None, {}, source=("plain.safetensors", None))
    kept = {name: entry["kept"] for name, entry in unpacked_parts(path)[0]["tensors"].items()}
    assert kept == {"flags": 0, "minus": None, "ones": None, "sparse": int(SPARSE.count_nonzero())}
    read = read_checkpoint(path)
    assert (read.record, read.masks) == (None, {})
    assert same_bits(read.tensors, dict(sorted(load_file(tmp_path / "plain.safetensors").items())))


def reader() -> Any:
    page = (ROOT / "docs/formats.md").read_text()
    block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert len([line for line in block.splitlines() if line]) <= 20
    assert block.startswith("import json, math, numpy as np, zstandard\nfrom safetensors.numpy import load_file\n")
    names: dict[str, Any] = {}
    exec(block, names)
    return names["read_packed"]


def test_the_reader_of_the_document(tmp_path: Path) -> None:
    state = {
        "a": SPARSE,
        "b": SPARSE.half(),
        "c": SPARSE.bfloat16()[:3, :3],
        "d": torch.randn(3, 1).double(),
        "e": torch.arange(9),
        "f": SPARSE > 0,
        "g": torch.zeros(0, 4),
    }
    masks = {name: state[name] != 0 for name in ("a", "b", "c")}
    read = reader()(write_small(tmp_path, state, masks))
    assert read.keys() == state.keys()
    for name, value in read_checkpoint(tmp_path / "plain.safetensors").tensors.items():
        bits = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        assert read[name].dtype.itemsize == value.element_size()
        assert read[name].shape == tuple(value.shape)
        assert read[name].tobytes() == bits.numpy().tobytes(), name


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = write_small(tmp_path)
    whole = path.read_bytes()
    for i in range(0, len(whole), 2):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        refusal(path)
    for i in range(0, len(whole), 40):
        path.write_bytes(whole[:i])
        refusal(path)


def changed(**changes: Any) -> Edit:
    return lambda index, _: index["tensors"]["fc.weight"].update(changes)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (changed(kept=2), "its index is damaged (: Value error, its layers are not those of its record)"),
        (changed(kept=None), "its index is damaged (: Value error, its layers are not those of its record)"),
        (changed(kept=5), "keeps more than there is"),
        (changed(shape=[4]), "its layers are not those of its record"),
        (changed(shape=[2**40, 2**40]), "is an absurd shape"),
        (changed(shape=[-2, -2]), "its index is damaged (tensors.fc.weight.shape.0"),
        (changed(dtype="F4"), "type F4 is not known"),
        (changed(more=1), "its index is damaged (tensors.fc.weight.more"),
        (lambda index, _: index["tensors"]["fc.bias"].update(shape=[3]), "values.F32 unpacks to 20 bytes, where its"),
        (lambda index, _: index["tensors"]["fc.bias"].update(dtype="F16"), "its index is of other parts"),
        (lambda index, _: index["tensors"].pop("steps"), "its index is of other parts"),
        (lambda _, parts: parts.update(masks=b"\xd0"), "the mask of fc.weight is not the recorded one"),
        (lambda _, parts: parts.update(masks=b"\xb1"), "the mask of fc.weight is not the recorded one"),
        (lambda _, parts: parts.update(masks=b"\xb0\0"), "its masks unpacks to 2 bytes, where its shapes take 1"),
        (lambda _, parts: parts.update(more=b""), "its index is of other parts"),
        (lambda index, _: index.update(record=None), "the mask of fc.weight"),
    ],
)  # fmt: skip
def test_an_index_of_something_else(tmp_path: Path, edit: Edit, what: str) -> None:
    path = write_small(tmp_path)
    if what == "the mask of fc.weight":  # without a record any mask with the right count will do
        read = read_checkpoint(invented(path, edit))
        assert (read.masks, read.tensors["fc.weight"].count_nonzero()) == ({}, 3)
        edit_too = lambda index, parts: (edit(index, parts), parts.update(masks=b"\xf0"))  # noqa: E731
        assert refusal(invented(path, edit_too)).what.startswith(what)
    else:
        assert what in refusal(invented(path, edit)).what


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (b"not a frame", "is not compressed by zstd"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"\xb0"), "does not say how large it is"),
        (zstandard.compress(b"\xb0")[:-1], "cannot be unpacked"),
        (zstandard.compress(b"\xb0") + b"more", "cannot be unpacked"),
        (zstandard.compress(bytes(2**25)), "unpacks to 33,554,432 bytes, where its shapes take 1"),
    ],
)
def test_frames_that_are_none(tmp_path: Path, frame: bytes, what: str) -> None:
    path = write_small(tmp_path)
    index, parts = unpacked_parts(path)
    frames = {name: zstandard.compress(data) for name, data in parts.items()}
    path.write_bytes(sealed(RECORD, frames | {"index": zstandard.compress(json.dumps(index).encode()), "masks": frame}))
    tracemalloc.start()
    assert what in refusal(path).what
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_no_index_is_unpacked_that_is_a_bomb(tmp_path: Path) -> None:
    path = write_small(tmp_path)
    path.write_bytes(sealed(RECORD, {"index": zstandard.compress(bytes(2**25))}))
    error = refusal(path)
    assert error.what == "has an index of 33,554,432 bytes; at most 16,777,216 are read"
    path.write_bytes(sealed(RECORD, {"masks": zstandard.compress(b"")}))
    assert refusal(path).what == "has no index"


def test_zeros_beyond_the_memory_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of zeros alone compresses to nothing; its shape is read before it."""

    def edit(index: dict[str, Any], parts: dict[str, bytes]) -> None:
        index.update(record=None, tensors={"w": {"dtype": "F32", "kept": 0, "shape": [2**20, 8]}})
        parts.clear()
        parts.update(masks=bytes(2**20), **{"values.F32": b""})

    path = invented(write_small(tmp_path), edit)
    assert path.stat().st_size < 2000
    monkeypatch.setattr("ntt_cli.files.free_memory.free_memory", lambda: 2**24)
    error = refusal(path)
    assert error.what == "takes 0.0 GiB of memory to read, of which 0.0 GiB are free"
    assert error.hint == "use a machine with more memory"


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"tensors":{}}', b'{"record":null,"tensors":{"w":1}}', b"\xff", b"NaN"]
)
def test_an_index_that_is_none(tmp_path: Path, text: bytes) -> None:
    path = write_small(tmp_path)
    path.write_bytes(sealed(RECORD, {"index": zstandard.compress(text)}))
    assert re.match("its index is (no JSON|damaged) ", refusal(path).what)


@pytest.mark.parametrize("source", ["../x", "a/b", "", "a\\b"])
def test_a_source_in_another_folder(tmp_path: Path, source: str) -> None:
    path = write_small(tmp_path)
    index, parts = unpacked_parts(path)
    frames = {name: zstandard.compress(data) for name, data in (parts | {"index": json.dumps(index).encode()}).items()}
    path.write_bytes(sealed(RECORD | {"source": source}, frames))
    assert "its metadata is damaged (packed.source" in refusal(path).what


def test_parts_that_are_no_bytes(tmp_path: Path) -> None:
    path = write_small(tmp_path)
    words = torch.zeros(3, dtype=torch.int32)
    whole = sealed(RECORD, {"index": words.numpy().tobytes()})
    path.write_bytes(whole)
    assert "is not compressed by zstd" in refusal(path).what


def test_nothing_is_large_in_a_small_file(tmp_path: Path) -> None:
    """Names, hashes and shapes of a hundred tensors are a small part of a packed file."""
    state = {f"layer{i}.weight": torch.where(SPARSE.roll(i) == 0, 0.0, torch.randn(64, 50)) for i in range(40)}
    state |= {f"layer{i}.bias": torch.randn(8) for i in range(60)}
    masks = {name: value != 0 for name, value in state.items() if value.ndim == 2}
    path = write_small(tmp_path, state, masks)
    entries = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    share = kept / entries
    entropy = -entries * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert path.stat().st_size < 1.1 * entropy + 0.9 * 4 * (kept + 60 * 8) + 4000


def test_state_and_masks_are_left_as_they_are(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in STATE.items()}
    write_small(tmp_path)
    assert all(torch.equal(STATE[name], value) for name, value in before.items())
    assert MASKS["fc.weight"].tolist() == [[True, False], [True, True]]

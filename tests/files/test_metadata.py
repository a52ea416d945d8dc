from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from ntt_cli.errors import CheckpointError
from ntt_cli.files.metadata import (
    NO_HASH,
    CheckpointRecord,
    LayerRecord,
    MeanStd,
    MeanStdRecord,
    ModelRecord,
    ReportRecord,
    describe_inputs,
    encode_record,
    put_file_hash,
    read_header,
)
from ntt_cli.files.safetensors_header import TensorRecord

RECORD = CheckpointRecord(
    kind="prune",
    model=ModelRecord(source="net.py", sha256="ab"),
    config={"seed": 1, "data": None},
    layers={
        "b.weight": LayerRecord(shape=(2, 1), kept=1, mask_sha256="cd"),
        "a.weight": LayerRecord(shape=(1, 2), kept=2, mask_sha256="ef"),
    },
    standardisation=MeanStdRecord(mean=(0.5,), std=(0.25,)),
    standardisation_source="--mean and --std",
    class_names=("cat", "dog"),
    weights="teacher.safetensors",
    versions={"torch": "2.9", "ntt": "0.1"},
    tensors={"b.weight": "01", "a.weight": "23"},
)
ENCODED = (
    '{"class_names":["cat","dog"],"config":{"data":null,"seed":1},"file_sha256":"' + NO_HASH + '",'
    '"format_version":1,"kind":"prune","layers":{'
    '"a.weight":{"kept":2,"mask_sha256":"ef","shape":[1,2]},"b.weight":{"kept":1,"mask_sha256":"cd","shape":[2,1]}},'
    '"model":{"modules":{},"sha256":"ab","source":"net.py"},"run_sha256":null,"standardisation":{"mean":[0.5],"std":[0.25]},'
    '"standardisation_source":"--mean and --std","tensors":{"a.weight":"23","b.weight":"01"},'
    '"versions":{"ntt":"0.1","torch":"2.9"},"weights":"teacher.safetensors"}'
)
OLD = (
    '{"config":{"data":null,"seed":1},"file_sha256":"' + NO_HASH + '","format_version":1,"kind":"prune","layers":{'
    '"a.weight":{"kept":2,"mask_sha256":"ef","shape":[1,2]},"b.weight":{"kept":1,"mask_sha256":"cd","shape":[2,1]}},'
    '"model":{"modules":{},"sha256":"ab","source":"net.py"},"run_sha256":null,"standardisation":{"mean":[0.5],"std":[0.25]},'
    '"tensors":{"a.weight":"23","b.weight":"01"}}'
)
"""As ntt wrote it before checkpoints said whose classes and whose versions they are of."""


def written(path: Path, text: str | None) -> Path:
    tensors = {"b.weight": torch.zeros(2, 1), "a.weight": torch.zeros(1, 2, dtype=torch.int64)}
    data = save(tensors, {"ntt": text} if text else None)
    path.write_bytes(put_file_hash(data) if NO_HASH.encode() in data else data)
    return path


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.exit_code == 2
    assert caught.value.where == str(path)
    return caught.value


def test_a_record_is_sorted_json_under_one_key() -> None:
    assert encode_record(RECORD) == {"ntt": ENCODED}


@pytest.mark.parametrize(
    ("value", "text"), [(Path("a/b"), '"a/b"'), ((1, 2), "[1,2]"), (float("nan"), "null"), (float("inf"), "null")]
)
def test_what_json_has_not_is_written_as_what_it_has(value: Any, text: str) -> None:
    record = ReportRecord(kind="prune report", summary={"x": value}, tensors={})
    assert f'"summary":{{"x":{text}}}' in encode_record(record)["ntt"]


def test_only_the_first_place_for_the_hash_is_filled() -> None:
    seal = b'file_sha256\\":\\"' + NO_HASH.encode()
    digest = hashlib.sha256(seal + seal + b"rest").hexdigest()
    assert put_file_hash(seal + seal, [memoryview(b"rest")]) == seal.replace(NO_HASH.encode(), digest.encode()) + seal


def test_a_hash_among_the_bytes_of_another_s_tensor_is_not_ntt_s(tmp_path: Path) -> None:
    words = torch.tensor(list(b'file_sha256\\":\\"' + NO_HASH.encode()), dtype=torch.uint8)
    save_file({"words": words}, tmp_path / "x.safetensors")
    assert read_header(tmp_path / "x.safetensors").record is None


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (None, "as they are"),
        (MeanStd((0.5,), (0.25,)), "normalised by mean 0.5, deviation 0.25"),
        (
            MeanStd((1 / 3, 2e-5, 3.0, 4.0), (12345.6, 2.0, 3.0, 4.0)),
            "normalised by mean 0.3333, 2e-05, 3, 4, deviation 1.235e+04, 2, 3, 4",
        ),
        (
            MeanStd((1.0,) * 5, (2.0,) * 1204),
            "normalised by mean 1, 1, 1, 1 and 1 more, deviation 2, 2, 2, 2 and 1,200 more",
        ),
    ],
)
def test_inputs_in_words(by: MeanStd | None, words: str) -> None:
    assert describe_inputs(by) == words


def test_read(tmp_path: Path) -> None:
    header = read_header(written(tmp_path / "x.safetensors", ENCODED))
    assert header.record is not None
    assert header.record.model_copy(update={"file_sha256": NO_HASH}) == RECORD
    assert header.tensors == {
        "a.weight": TensorRecord(dtype="I64", shape=(1, 2)),
        "b.weight": TensorRecord(dtype="F32", shape=(2, 1)),
    }
    assert list(header.tensors) == ["a.weight", "b.weight"]


def test_read_a_file_of_before(tmp_path: Path) -> None:
    record = read_header(written(tmp_path / "x.safetensors", OLD)).record
    assert isinstance(record, CheckpointRecord)
    assert record.standardisation == RECORD.standardisation
    assert (record.standardisation_source, record.class_names, record.weights) == (None, None, None)
    assert record.versions == {}


def test_read_a_file_that_ntt_did_not_write(tmp_path: Path) -> None:
    assert read_header(written(tmp_path / "x.safetensors", None)).record is None


def test_read_a_report(tmp_path: Path) -> None:
    given = ReportRecord(kind="finetune report", summary={"epochs": 3}, tensors={"a.weight": "01", "b.weight": "23"})
    record = read_header(written(tmp_path / "x.safetensors", encode_record(given)["ntt"])).record
    assert record is not None
    assert record.model_copy(update={"file_sha256": NO_HASH}) == given


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "x.ckpt", "x.pkl", "x.pickle", "x.joblib", "X.PT"])
def test_pickles_are_not_even_opened(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path / name)
    assert "may hold a pickle" in str(error)
    assert "safetensors.torch.save_file" in error.hint


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x.safetensors").hint == "check the path"
    written(tmp_path / "sparse.safetensors", None)
    assert "does not exist" in str(refusal(tmp_path / "spare.safetensors"))
    assert refusal(tmp_path / "spare.safetensors").hint == f"did you mean {tmp_path / 'sparse.safetensors'}?"
    assert refusal(tmp_path / "nets" / "x.safetensors").hint == "check the path"


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in str(refusal(tmp_path))


@pytest.mark.parametrize("content", [b"\x00", bytes(8), bytes(100)])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "is not a whole safetensors file" in str(refusal(tmp_path / "x.safetensors"))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.safetensors", '{"format_version":1}').read_bytes()
    for length in range(1, len(whole), 3):
        (tmp_path / "x.safetensors").write_bytes(whole[:length])
        assert "is not a whole safetensors file" in str(refusal(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "its metadata is no JSON"),
        ("[]", "has format version None; this ntt reads version 1"),
        ('"words"', "has format version None"),
        ("{}", "has format version None"),
        (ENCODED.replace('"format_version":1', '"format_version":2'), "has format version 2"),
        (ENCODED.replace('"kind":"prune"', '"kind":"grow"'), "its metadata is damaged"),
        (ENCODED.replace('"kept":2', '"kept":"two"'), "prune.layers.a.weight.kept: "),
        (ENCODED.replace('"kept":2,', ""), "prune.layers.a.weight.kept: Field required"),
        (ENCODED.replace('"seed":1', '"seed":1},"owner":{'), "prune.owner: Extra inputs are not permitted"),
        (ENCODED.replace('"seed":1', '"seed":1,"seed":2'), "its metadata is no JSON (it names 'seed' twice)"),
        (ENCODED.replace('"seed":1', '"seed":NaN'), "its metadata is no JSON (it holds NaN)"),
        (ENCODED.replace('"seed":1', '"seed":' + "[" * 40 + "]" * 40), "no JSON (it is nested too deeply)"),
        (ENCODED.replace('"seed":1', '"seed":' + "[" * 99_999 + "]" * 99_999), "no JSON (it is nested too deeply)"),
        (ENCODED.replace('"seed":1', '"seed":' + "1" * 5000), "its metadata is no JSON (Exceeds the limit"),
        (ENCODED.replace('"seed":1', '"seed":"\\ud800"'), "its metadata is no JSON ('utf-8' codec can't encode"),
        (ENCODED.replace('"format_version":1', '"format_version":true'), "has format version True"),
        (ENCODED.replace('"format_version":1', '"format_version":1.0'), "has format version 1.0"),
        (ENCODED.replace('"format_version":1', f'"format_version":"{"2" * 999}"'), f"version {'2' * 20}; this"),
        (ENCODED.replace('"kept":2', '"kept":3'), "prune.layers.a.weight: Value error, keeps more than there is"),
        (ENCODED.replace('"kept":2', '"kept":-1'), "prune.layers.a.weight.kept: "),
        (ENCODED.replace('"shape":[1,2]', '"shape":[0,2]'), "prune.layers.a.weight.shape.0: "),
        (ENCODED.replace('"shape":[1,2]', '"shape":[2,1]'), "its record has a.weight in another shape"),
        (ENCODED.replace('"a.weight":{', '"c.weight":{'), "its layers are not its tensors"),
        (ENCODED.replace('"a.weight":"23"', '"c.weight":"23"'), "its record is of other tensors"),
        (ENCODED.replace('"std":[0.25]', '"std":[0.0]'), "prune.standardisation.std.0: "),
        (ENCODED.replace('"std":[0.25]', '"std":[0.25,1]'), "has 1 means and 2 deviations"),
        (ENCODED.replace("[0.25]", "[]").replace("[0.5]", "[]"), "has 0 means and 0 deviations"),
    ],
)
def test_damaged_metadata(tmp_path: Path, text: str, what: str) -> None:
    error = refusal(written(tmp_path / "x.safetensors", text))
    assert what in str(error)
    assert error.hint == ("pip install -U ntt-cli" if "version" in what else "make the file again")
    assert len(str(error)) < 500


def test_metadata_that_nobody_knows_is_ignored(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_header(tmp_path / "x.safetensors").record is None

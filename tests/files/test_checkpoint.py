from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from ntt_cli.errors import CheckpointError, OutputError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.checkpoint import (
    Contents,
    checkpoint_of,
    layer_records,
    masked_state,
    pack_mask,
    read_checkpoint,
    write_checkpoint,
)
from ntt_cli.files.metadata import NO_HASH, MeanStd, ModelRecord, Normalisation, RunRecord, put_file_hash
from ntt_cli.files.report import write_report
from ntt_cli.files.state import State, write_state

STATE = {
    "fc.weight": torch.tensor([[1.5, 7.0], [0.0, -2.0]]),
    "fc.bias": torch.tensor([0.0, 0.5]),
    "steps": torch.tensor(3),
}
MASKS = {"fc.weight": torch.tensor([[True, False], [True, True]])}
METADATA = (
    '{"class_names":["cat","dog"],"config":{"seed":0,"sparsity":0.25},"file_sha256":"FILE","format_version":1,'
    '"kind":"prune","layers":{"fc.weight":{"kept":3,"mask_sha256":"MASK","shape":[2,2]}},'
    '"model":{"modules":{},"sha256":"00","source":"net.py"},"run_sha256":null,"standardisation":{"mean":[0.5],"std":[0.25]},'
    '"standardisation_source":"--mean and --std","tensors":{"fc.bias":"BIAS","fc.weight":"WEIGHT","steps":"STEPS"},'
    '"versions":{"ntt":"1.2.3","torch":"4.5.6"},"weights":"teacher.safetensors"}'
)


def contents_of(state: Mapping[str, Tensor] = STATE, masks: Mapping[str, Tensor] = MASKS, **changes: Any) -> Contents:
    options: dict[str, Any] = {
        "kind": "prune",
        "model": ModelRecord(source="net.py", sha256="00"),
        "config": {"sparsity": 0.25, "seed": 0},
        "normalisation": Normalisation(MeanStd(mean=(0.5,), std=(0.25,)), "--mean and --std"),
    }
    return Contents(state, dict(masks), **(options | changes))


def write(path: Path, state: Mapping[str, Tensor] = STATE, masks: Mapping[str, Tensor] = MASKS, **changes: Any) -> Path:
    write_checkpoint(path, contents_of(state, masks, **changes))
    return path


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2
    assert caught.value.where == str(path)
    return caught.value


def tampered(path: Path, edit: Any) -> Path:
    """The file with its record edited, and whole again."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["ntt"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record["file_sha256"] = NO_HASH
    edit(record, tensors)
    path.write_bytes(put_file_hash(save(tensors, {"ntt": json.dumps(record, separators=(",", ":"))})))
    return path


def test_golden_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntt_cli.files.checkpoint.__version__", "1.2.3")
    monkeypatch.setattr(torch, "__version__", "4.5.6")
    path = write(tmp_path / "x.safetensors", class_names=("cat", "dog"), weights="teacher.safetensors")
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    expected = {
        "fc.weight": struct.pack("<4f", 1.5, 0.0, torch.finfo(torch.float32).tiny, -2.0),
        "fc.bias": struct.pack("<2f", 0.0, 0.5),
        "steps": struct.pack("<q", 3),
    }
    found = {name: body[slice(*header[name]["data_offsets"])] for name in expected}
    assert found == expected
    assert [(header[name]["dtype"], header[name]["shape"]) for name in expected] == [
        ("F32", [2, 2]),
        ("F32", [2]),
        ("I64", []),
    ]
    assert list(header["__metadata__"]) == ["ntt"]
    golden = METADATA.replace("MASK", sha256_of(bytes([0b10110000])))
    for word, name in (("WEIGHT", "fc.weight"), ("BIAS", "fc.bias"), ("STEPS", "steps")):
        golden = golden.replace(word, sha256_of(expected[name]))
    digest = json.loads(header["__metadata__"]["ntt"])["file_sha256"]
    assert header["__metadata__"]["ntt"] == golden.replace("FILE", digest)
    assert digest == sha256_of(data.replace(digest.encode(), b"0" * 64))
    assert sha256_of(data) == "128c3fffe1a44a81abfe35d0b2a0576356ae826ed49a62796a4d06e8274934ec"


def test_anyone_can_load_it(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    masks = {"0.weight": torch.rand(4, 3) < 0.5, "2.weight": torch.rand(2, 4) < 0.5}
    path = write(tmp_path / "x.safetensors", network.state_dict(), masks)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert str(other.load_state_dict(load_file(path), strict=True)) == "<All keys matched successfully>"
    for name, mask in masks.items():
        weight = other.get_parameter(name)
        assert torch.equal(weight, torch.where(mask, network.get_parameter(name), 0.0))


def test_mask_bits() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [True, True, False]])
    assert pack_mask(mask).tolist() == [0b10100011, 0b11100000]
    assert pack_mask(mask.T).tolist() == [0b10110011, 0b10100000]
    assert layer_records({"w": mask})["w"].kept == 7


@st.composite
def weights_and_masks(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    values = torch.randn(shape, generator=generator).round(decimals=draw(st.sampled_from([0, 3]))).to(dtype)  # 0, -0
    mask = torch.rand(shape, generator=generator) < density
    # As a transposed weight comes, not contiguous.
    return (values.transpose(0, 1), mask.transpose(0, 1)) if draw(st.booleans()) else (values, mask)


@settings(deadline=None, max_examples=40)
@given(weights_and_masks(), weights_and_masks())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> None:
    masks = {"first": first[1], "second": second[1]}
    others = {"dense": first[0], "steps": torch.tensor(7), "flags": second[1], "codes": torch.arange(5).byte()}
    state = {"first": first[0], "second": second[0]} | others
    before = {name: value.clone() for name, value in state.items()}
    read = read_checkpoint(write(tmp_path_factory.mktemp("round") / "x.safetensors", state, masks))
    assert all(torch.equal(value, before[name]) for name, value in state.items()), "its arguments changed"
    assert read.tensors.keys() == state.keys()
    assert all(read.tensors[name].dtype == value.dtype for name, value in state.items())
    assert all(torch.equal(read.tensors[name], value) for name, value in others.items())
    assert read.masks.keys() == masks.keys()
    for name, mask in masks.items():
        values, given_values = read.tensors[name], state[name]
        assert torch.equal(read.masks[name], mask)
        assert not values[~mask].any()
        assert not values[~mask].signbit().any()
        assert torch.equal(values[mask & (given_values != 0)], given_values[mask & (given_values != 0)])
        assert (values[mask & (given_values == 0)] == torch.finfo(values.dtype).tiny).all()


def test_a_checkpoint_that_is_not_written_is_as_one_that_was(tmp_path: Path) -> None:
    made = checkpoint_of(contents_of(), tmp_path / "x.safetensors")
    read = read_checkpoint(write(tmp_path / "x.safetensors"))
    assert read.record is not None
    assert (made.path, made.record) == (read.path, read.record.model_copy(update={"file_sha256": NO_HASH}))
    for ours, theirs in ((made.tensors, read.tensors), (made.masks, read.masks)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_state_to_be_written_is_row_major() -> None:
    value = torch.arange(6.0).view(2, 3).T
    (tensor,) = masked_state({"w": value}, {}).values()
    assert torch.equal(tensor, value)
    assert tensor.stride() == (2, 1)


def test_a_tensor_named_like_the_place_for_the_hash(tmp_path: Path) -> None:
    name = 'file_sha256":"' + NO_HASH
    assert name in read_checkpoint(write(tmp_path / "x.safetensors", STATE | {name: torch.zeros(1)})).tensors


def test_a_kept_zero_changes_no_output(tmp_path: Path) -> None:
    network = nn.Linear(5, 3)
    nn.init.zeros_(network.weight)
    state = masked_state(network.state_dict(), {"weight": torch.ones(3, 5, dtype=torch.bool)})
    x = torch.randn(8, 5)
    before = network(x)
    network.load_state_dict(state)
    assert (network.weight != 0).all()
    assert torch.equal(network(x), before)


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    for i in range(len(whole)):
        for bit in (i % 8, (i + 3) % 8):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :])
            refusal(path)


def test_damage_is_named_by_its_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    begin = 8 + struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:begin])
    for name in STATE:
        at = begin + header[name]["data_offsets"][0]
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        error = refusal(path)
        assert str(error) == f"{path}: {name} is damaged: the SHA-256 does not match"
        assert error.hint == "copy the file again, or make it again"
    path.write_bytes(whole[:begin] + bytes(len(whole) - begin))
    assert refusal(path).what.startswith("fc.bias, fc.weight, steps")
    for word, damaged in ((b"[2,2]", b"[1,4]"), (b"I64", b"F64"), (b"net.py", b"bet.py"), (b'"ntt"', b'"nut"')):
        assert whole.count(word) >= 1
        path.write_bytes(whole.replace(word, damaged))
        assert "its header is damaged" in str(refusal(path))


def test_zeros_that_are_not_the_masks(tmp_path: Path) -> None:
    def edit(record: Any, tensors: Any) -> None:
        tensors["fc.weight"][0, 0] = 0.0

    error = refusal(tampered(write(tmp_path / "x.safetensors"), edit))
    assert (error.what, error.hint) == ("its zeros are not its recorded masks", "make the file again")


def test_other_files_of_ntt_are_no_checkpoints(tmp_path: Path) -> None:
    report, state = tmp_path / "x.report.safetensors", tmp_path / "x.resume.safetensors"
    model = ModelRecord(source="net.py", sha256=None)
    write_report(report, {}, kind="prune report", summary=model)
    run = RunRecord(config={}, model=model, weights_sha256=None, data_sha256=None, machine={})
    write_state(state, State(step=0, tensors={}, values={}), kind="prune state", run=run)
    for path, what, suffix in ((report, "report", ".report"), (state, "run's state", ".resume")):
        error = refusal(path)
        assert error.what == f"is a {what}, not a checkpoint"
        assert error.hint == f"name the file without {suffix}"


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda record, tensors: tensors.pop("fc.weight"), "its record is of other tensors"),
        (
            lambda record, tensors: record["layers"].update(x=record["layers"]["fc.weight"]),
            "its layers are not its tensors",
        ),
        (lambda record, tensors: record["layers"]["fc.weight"].update(kept=2), "its zeros are not its recorded masks"),
        (
            lambda record, tensors: record["layers"]["fc.weight"].update(shape=[4]),
            "its record has fc.weight in another shape",
        ),
    ],
)
def test_a_record_of_something_else(tmp_path: Path, edit: Any, what: str) -> None:
    error = refusal(tampered(write(tmp_path / "x.safetensors"), edit))
    assert (error.what, error.hint) == (what, "make the file again")


def test_a_file_that_ntt_did_not_write(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([0.0, 1.0])}, tmp_path / "x.safetensors")
    read = read_checkpoint(tmp_path / "x.safetensors")
    assert (read.path, read.masks, read.record, read.normalisation) == (tmp_path / "x.safetensors", {}, None, None)
    assert read.tensors["w"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.uint16, torch.bool])
def test_rare_types(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"w": torch.tensor([0.0, 1.0]).to(dtype)}, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors").tensors["w"].dtype == dtype


@pytest.mark.parametrize(("dtype", "size"), [("F4", 1), ("F6_E2M3", 3), ("F8_E8M0", 4)])
def test_types_that_torch_cannot_compute_with(tmp_path: Path, dtype: str, size: int) -> None:
    shape = [2] if size == 1 else [4]
    header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    error = refusal(tmp_path / "x.safetensors")
    assert (error.what, error.hint) == (f"w is of type {dtype}", "save it as F32, F16 or BF16")


def test_a_file_with_holes_is_not_read(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(tmp_path / "x.safetensors", 8 + len(header) + 2**42)
    error = refusal(tmp_path / "x.safetensors")
    assert "takes 4096.0 GiB of memory to read" in error.what
    assert error.hint == "use a machine with more memory"


def test_the_run_that_made_it_is_recorded(tmp_path: Path) -> None:
    record = read_checkpoint(write(tmp_path / "x.safetensors", run_sha256="ab")).record
    assert record is not None
    assert record.run_sha256 == "ab"
    assert read_checkpoint(tmp_path / "x.safetensors").path == tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    "given",
    [Normalisation(MeanStd((0.5, 0.4), (0.25, 0.5)), "--mean and --std"), Normalisation(None, "nobody"), None],
    ids=["numbers", "as they are", "not known"],
)
def test_normalisation_travels(tmp_path: Path, given: Normalisation | None) -> None:
    assert read_checkpoint(write(tmp_path / "x.safetensors", normalisation=given)).normalisation == given


def test_numbers_of_a_file_of_before_are_taken(tmp_path: Path) -> None:
    path = tampered(write(tmp_path / "x.safetensors"), lambda record, _: record.pop("standardisation_source"))
    read = read_checkpoint(path).normalisation
    assert read is not None
    assert read.by == MeanStd((0.5,), (0.25,))


def test_class_names_travel(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path / "x.safetensors", class_names=("cat", "dög")))
    assert read.class_names == ("cat", "dög")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    error = refusal(tmp_path / "\udcff.safetensors")
    assert error.what == "has bytes in its name that are no text in this locale"


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "missing" / "x.safetensors")

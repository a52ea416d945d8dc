from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ntt_cli.errors import CheckpointError, ResumeError
from ntt_cli.files.metadata import ModelRecord, RunRecord, StateRecord
from ntt_cli.files.report_reader import read_report
from ntt_cli.files.state import Kind, State, prefixed, read_state, write_state

RUN = RunRecord(
    config={"seed": 1},
    model=ModelRecord(source="net.py", sha256="ab"),
    weights_sha256=None,
    data_sha256="cd",
    machine={},
)


def there_and_back(path: Path, state: State) -> State:
    write_state(path, state, kind="prune state", run=RUN)
    read, run = read_state(path, kind="prune state")
    assert run == RUN
    return read


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24.0).view(2, 3, 2, 2),
        torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.arange(24.0).view(4, 6, 1, 1).to(memory_format=torch.channels_last),
        torch.arange(6).view(2, 3).T,
        torch.zeros(0, 3),
        torch.tensor(3.0, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.zeros(3).expand(2, 3),
        torch.arange(10)[::2],
    ],
    ids=lambda value: f"{list(value.shape)} {value.stride()}",
)
def test_tensors_come_back_as_they_were(tmp_path: Path, value: torch.Tensor) -> None:
    read = there_and_back(tmp_path / "x", State(step=3, tensors={"a": value}, values={})).tensors["a"]
    assert torch.equal(read, value)
    assert read.dtype == value.dtype
    if len(set(value.untyped_storage())) and value.numel() == value.untyped_storage().size() // value.itemsize:
        assert read.stride() == value.stride()


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = {"rate": 0.1 + 0.2, "epochs": [{"epoch": 1, "accuracy": None}], "steps": [0, 100]}
    read = there_and_back(tmp_path / "x", State(step=7, tensors={}, values=values))
    assert (read.step, read.values) == (7, values)


def test_the_same_tensor_twice(tmp_path: Path) -> None:
    tied = torch.ones(3)
    read = there_and_back(tmp_path / "x", State(step=0, tensors={"a": tied, "b": tied}, values={}))
    assert torch.equal(read.tensors["a"], read.tensors["b"])


def test_parts() -> None:
    state = State(step=0, tensors=prefixed("param", {"a.b": torch.ones(1)}) | {"params": torch.ones(2)}, values={})
    assert list(state.part("param")) == ["a.b"]


def refusal(path: Path, *, kind: Kind = "prune state") -> tuple[str, str]:
    with pytest.raises(ResumeError) as caught:
        read_state(path, kind=kind)
    assert caught.value.where == str(path)
    return caught.value.what, caught.value.hint


def test_what_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "x.resume.safetensors"
    write_state(path, State(step=0, tensors={"a": torch.ones(2)}, values={}), kind="prune state", run=RUN)
    assert refusal(path, kind="finetune state") == (
        "is not a finetune state but prune state",
        "name another --output",
    )
    with pytest.raises(CheckpointError, match="is not a report|has no report"):
        read_report(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\x01")
    assert refusal(path) == ("a is damaged: the SHA-256 does not match", "remove it to start from the beginning")
    path.write_bytes(data[:-1])
    what, hint = refusal(path)
    assert "is not a whole safetensors file" in what
    assert hint == "remove it to start from the beginning"
    save_file({"a": torch.ones(2)}, path)
    assert refusal(path) == ("is not a prune state but of unknown origin", "name another --output")


@pytest.mark.parametrize("strides", [(2**60, 1), (1, 1), (3,), (0, 0)], ids=str)
def test_a_layout_that_does_not_fit(tmp_path: Path, strides: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.resume.safetensors"
    honest = StateRecord.__init__
    monkeypatch.setattr(
        StateRecord, "__init__", lambda self, **values: honest(self, **(values | {"strides": {"a": strides}}))
    )
    write_state(path, State(step=0, tensors={"a": torch.ones(2, 3)}, values={}), kind="prune state", run=RUN)
    assert refusal(path) == ("a cannot be laid out as it says", "remove it to start from the beginning")


def test_a_run_is_known_by_all_but_its_machine() -> None:
    assert RUN.sha256 == RUN.model_copy(update={"machine": {"threads": "2"}}).sha256
    for change in ({"config": {"seed": 2}}, {"weights_sha256": "ef"}, {"data_sha256": None}):
        assert RUN.model_copy(update=change).sha256 != RUN.sha256

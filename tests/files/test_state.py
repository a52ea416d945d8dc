from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, NonNegativeInt
from safetensors.torch import save_file

from ntt_cli.errors import CheckpointError, ResumeError
from ntt_cli.files.metadata import ModelRecord, RunRecord, StateRecord, read_header
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
        torch.arange(3.0).as_strided((1, 3), (0, 1)),
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
    assert (read.step, read.values, read.where) == (7, values, tmp_path / "x")


def test_the_same_tensor_twice(tmp_path: Path) -> None:
    tied = torch.ones(3)
    read = there_and_back(tmp_path / "x", State(step=0, tensors={"a": tied, "b": tied}, values={}))
    assert torch.equal(read.tensors["a"], read.tensors["b"])


def test_parts() -> None:
    state = State(step=0, tensors=prefixed("param", {"a.b": torch.ones(1)}) | {"params": torch.ones(2)}, values={})
    assert list(state.part("param")) == ["a.b"]


def test_strides_are_recorded_only_where_the_file_would_lose_them(tmp_path: Path) -> None:
    plain = torch.zeros(2, 3)
    there_and_back(tmp_path / "x", State(step=0, tensors={"plain": plain, "transposed": plain.T}, values={}))
    record = read_header(tmp_path / "x").record
    assert isinstance(record, StateRecord)
    assert record.strides == {"transposed": (1, 3)}


class Values(BaseModel, extra="forbid"):
    order: list[NonNegativeInt]


FOUND = State(
    step=0,
    tensors={"param.a": torch.ones(2, 3), "param.b": torch.tensor([torch.inf]), "n.c.d": torch.tensor(1)},
    values={"order": [0, 1]},
    where="x.resume.safetensors",
)
LIKE = {"b": torch.zeros(1), "a": torch.zeros(2, 3)}


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda: FOUND.part_like("param", LIKE | {"c": torch.zeros(1)}), "lacks param.c, which this run has"),
        (lambda: FOUND.part_like("param", {"a": LIKE["a"]}), "holds param.b, which this run has not"),
        (
            lambda: FOUND.part_like("param", LIKE | {"a": torch.zeros(3, 2, dtype=torch.float64)}),
            "holds param.a as float32 [2, 3], where this run has float64 [3, 2]",
        ),
        (
            lambda: FOUND.part_like("param", LIKE | {"a": torch.zeros(3, 2)}),
            "holds param.a as float32 [2, 3], where this run has float32 [3, 2]",
        ),
        (
            lambda: FOUND.part_like("param", LIKE | {"a": torch.zeros(2, 3, dtype=torch.int64)}),
            "holds param.a as float32 [2, 3], where this run has int64 [2, 3]",
        ),
        (lambda: FOUND.require_finite("param", FOUND.part("param")), "holds param.b with NaN or infinity"),
        (lambda: FOUND.require_names("param", "buffer"), "holds n.c.d, which this run has not"),
        (
            lambda: State(step=0, tensors={}, values={"order": [0, -1]}, where=FOUND.where).values_as(Values),
            "holds values.order.1 that cannot be: Input should be greater than or equal to 0",
        ),
    ],
)
def test_a_state_of_another_run_is_refused(use: Callable[[], object], what: str) -> None:
    with pytest.raises(ResumeError) as caught:
        use()
    assert str(caught.value) == f"x.resume.safetensors: is no state of this run: it {what}"
    assert caught.value.hint == "remove it to start from the beginning"


def test_a_state_of_this_run_is_taken() -> None:
    part = FOUND.part_like("param", LIKE)
    assert list(part) == ["b", "a"]
    assert all(part[name] is FOUND.tensors[f"param.{name}"] for name in part)
    FOUND.require_finite("param", {"a": FOUND.tensors["param.a"], "d": FOUND.tensors["n.c.d"]})
    FOUND.require_names("n", "param")
    assert FOUND.values_as(Values) == Values(order=[0, 1])


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


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((2, 3), (2**60, 1)),
        ((2, 3), (1, 1)),
        ((2, 3), (3,)),
        ((2, 3), (0, 0)),
        ((1, 3), (0, 2)),
        ((1, 3), (4, 1)),
        ((1, 3), (-1, 1)),
        ((1,), (2,)),
    ],
    ids=str,
)
def test_a_layout_that_does_not_fit(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.resume.safetensors"
    honest = StateRecord.__init__
    monkeypatch.setattr(
        StateRecord, "__init__", lambda self, **values: honest(self, **(values | {"strides": {"a": strides}}))
    )
    write_state(path, State(step=0, tensors={"a": torch.ones(shape)}, values={}), kind="prune state", run=RUN)
    assert refusal(path) == ("a cannot be laid out as it says", "remove it to start from the beginning")


def test_a_run_is_known_by_all_but_its_machine() -> None:
    assert RUN.sha256 == RUN.model_copy(update={"machine": {"threads": "2"}}).sha256
    for change in ({"config": {"seed": 2}}, {"weights_sha256": "ef"}, {"data_sha256": None}):
        assert RUN.model_copy(update=change).sha256 != RUN.sha256

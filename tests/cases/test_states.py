"""States of unfinished runs, edited by hand and sealed again (`cases/state-oob`): refused by name, or gone on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ntt_cli.cli.app import main
from ntt_cli.config import FinetuneConfig, ModelOptions, PruneConfig
from ntt_cli.errors import ResumeError
from ntt_cli.files import hashed as hashed
from ntt_cli.files.hashed import tensor_hashes, write_hashed
from ntt_cli.files.metadata import StateRecord, read_header
from ntt_cli.files.safetensors_header import read_raw_header
from ntt_cli.files.state import State, read_state
from ntt_cli.methods.ntt.method import NTT
from ntt_cli.methods.ntt.progress import Progress, restore_progress
from ntt_cli.methods.ntt.settings import settle
from ntt_cli.methods.ntt.step import start_student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.loading.models import load_model
from ntt_cli.networks.prepare import to_functional
from ntt_cli.pruning import prune
from ntt_cli.runtime.micro_batching import MicroBatching
from ntt_cli.runtime.optimiser import advance
from ntt_cli.runtime.signals import Interrupted
from ntt_cli.training import finetune
from ntt_cli.training.progress import Training
from ntt_cli.training.step import make_optimiser
from tests.comparison.test_compare import AfterLooks
from tests.parts import inputs_of

MODEL = """
from torch import nn
DATA = "digits"
def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))
"""
STATE = Path("x.resume.safetensors")
SHARED: dict[str, Any] = {"model": "net.py", "limit": 40, "device": "cpu", "output": "x.safetensors"}
RUNS: dict[str, tuple[Callable[..., object], Any]] = {
    "prune": (
        prune.run,
        PruneConfig(**SHARED, sparsity=0.5, steps=5, mask_update_every=2, batch_size=8, checkpoint_every=0),
    ),
    "finetune adamw": (finetune.run, FinetuneConfig(**SHARED, epochs=3, batch_size=16, checkpoint_every=0)),
    "finetune sgd": (
        finetune.run,
        FinetuneConfig(**SHARED, epochs=3, batch_size=16, optimiser="sgd", checkpoint_every=0),
    ),
}
COMMANDS = {
    "prune": "prune net.py -s 0.5 --steps 5 --mask-update-every 2 --batch-size 8",
    "finetune adamw": "finetune net.py --epochs 3 --batch-size 16",
    "finetune sgd": "finetune net.py --epochs 3 --batch-size 16 --optimiser sgd",
}
MORE = "--limit 40 --device cpu -o x.safetensors --checkpoint-every 0 -q --resume"


def tensor_mutations(value: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    """What somebody might make of a tensor, by name; the last of them keep its shape and type."""
    yield "missing", None
    yield "shorter", value.flatten()[:1].repeat(3) if value.numel() > 3 else torch.zeros(7, dtype=value.dtype)
    yield "longer", torch.zeros(100_000, dtype=value.dtype)
    yield "empty", torch.zeros(0, dtype=value.dtype)
    yield "turned", value[None]
    yield "another type", value.to(torch.float64 if value.dtype != torch.float64 else torch.float32)
    yield "another whole type", value.to(torch.int32)
    if value.is_floating_point():
        for number in (float("nan"), float("inf"), -1.0, 1e30):
            yield f"all {number}", torch.full_like(value, number)
    else:
        yield "all least", torch.full_like(value, 0)


def json_mutations(value: Any) -> Iterator[Any]:
    """A copy with one part changed, for each part and several changes."""
    yield from (None, -1, 10**30, "text", [], {}, [1, 2, 3], 0.5, {"a": [1]})
    if isinstance(value, dict):
        for key in value:
            yield {name: part for name, part in value.items() if name != key}
            for other in json_mutations(value[key]):
                yield value | {key: other}
        yield value | {"extra": 1}
    if isinstance(value, list):
        for i in range(len(value)):
            yield value[:i] + value[i + 1 :]
            yield [*value, value[i]]
            for other in json_mutations(value[i]):
                yield [*value[:i], other, *value[i + 1 :]]


@pytest.fixture(scope="module")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """States of each run in the middle; the fine-tunings are in their second epoch."""
    folder = tmp_path_factory.mktemp("states")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("net.py").write_text(MODEL)
        for name, (run, config) in RUNS.items():
            with pytest.raises(Interrupted):
                run(config, lambda _: None, AfterLooks(4))
            STATE.rename(f"{name}.state")
    return folder


@pytest.fixture(params=RUNS)
def name(request: pytest.FixtureRequest, _states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(_states / "net.py", "net.py")
    shutil.copy(_states / f"{request.param}.state", STATE)
    return str(request.param)


def write(tensors: dict[str, Tensor], record: StateRecord, **changes: Any) -> None:
    STATE.unlink(missing_ok=True)
    changed = record.model_copy(update={"tensors": tensor_hashes(tensors), "file_sha256": "0" * 64} | changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashed, "read_header", read_raw_header)  # which does not refuse what is to be refused later
        write_hashed(STATE, tensors, changed)


def resumed(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    for output in Path().glob("x*.safetensors"):
        if output != STATE:
            output.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main([*COMMANDS[name].split(), *MORE.split()])
    assert isinstance(exit.value.code, int)
    return exit.value.code, capsys.readouterr().err


def test_as_it_was_it_is_gone_on_from(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed(name, capsys)[0] == 0


def record_of() -> StateRecord:
    record = read_header(STATE).record
    assert isinstance(record, StateRecord)
    return record


def restored(name: str, state: State) -> None:
    """Go on from the state and take a step of its optimiser, without what a whole run does besides."""
    module = load_model(ModelOptions(model="net.py"), seed=0).module
    if name != "prune":
        parameters = list(module.parameters())
        optimiser = make_optimiser(RUNS[name][1].optimiser, parameters, learning_rate=1e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser)
        training = Training(module, optimiser, schedule, torch.Generator())
        training.restore(state, samples=36, steps=2, epochs=3)
    else:
        teacher = to_functional(module, torch.device("cpu"), lambda _: None)
        names = ("1.weight", "4.weight")
        settings = settle(RUNS[name][1], teacher, names, samples=40, method=NTT, trained=False)
        fresh = Progress(start_student(teacher, names, learning_rate=1e-3))
        transfer = Transfer(teacher, inputs_of(torch.zeros(1, 8, 8)), names, 10, settings)
        student = restore_progress(fresh, state, transfer, MicroBatching(None, 8, lambda _: None)).student
        optimiser, parameters = student.optimiser, list(student.params.values())
    for p in parameters:
        p.grad = torch.ones_like(p)
    advance(optimiser)


def outcome(name: str, state: State) -> str:
    """Why the state is refused; nothing where it is gone on from. Any other error is one of the test."""
    try:
        restored(name, state)
    except ResumeError as error:
        return error.what
    return ""


def test_each_tensor_of_another_shape_type_or_range(name: str) -> None:
    state, _ = read_state(STATE, kind=record_of().kind)
    restored(name, state)
    refused = 0
    for key, value in state.tensors.items():
        for what, other in tensor_mutations(value):
            same = other is not None and (other.shape, other.dtype) == (value.shape, value.dtype)
            edited = {k: v for k, v in state.tensors.items() if k != key} | ({} if other is None else {key: other})
            said = outcome(name, replace(state, tensors=edited))
            refused += bool(said)
            harmless = same or (what == "another type" and key.split(".")[0] in {"losses", "history"})
            harmless |= what == "missing" and key.endswith(".momentum_buffer")  # begun anew, as torch does
            assert harmless or said, (key, what)
            assert not said or key.split(".")[0] in said, (key, what, said)
    assert refused > 6 * len(state.tensors)


def test_without_a_parameter_s_momentum_it_is_begun_anew(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As torch does for a parameter that had no gradient yet; its fused kernels take no such mixture."""
    tensors, record = load_file(STATE), record_of()
    write({key: value for key, value in tensors.items() if not key.startswith("optimiser.0.")}, record)
    assert resumed(name, capsys)[0] == 0


@pytest.mark.parametrize("what", ["shorter", "longer", "another type"])
def test_the_command_refuses_a_moment(name: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, record = load_file(STATE), record_of()
    key = "optimiser.0.momentum_buffer" if "sgd" in name else "optimiser.0.exp_avg"
    other = dict(tensor_mutations(tensors.pop(key)))[what]
    write(tensors | ({} if other is None else {key: other}), record)
    code, said = resumed(name, capsys)
    assert code == 2
    assert f"error: {STATE}: is no state of this run: it " in said
    assert "optimiser.0" in said
    assert "hint: remove it to start from the beginning" in said


def test_each_value_changed(name: str) -> None:
    state, _ = read_state(STATE, kind=record_of().kind)
    refused = 0
    for values in json_mutations(dict(state.values)):
        if isinstance(values, dict):
            refused += bool(outcome(name, replace(state, values=values)))
    assert refused > 20


def test_a_tensor_too_many(name: str) -> None:
    state, _ = read_state(STATE, kind=record_of().kind)
    for key in ("param.more", "optimiser.99.exp_avg", "optimiser.x.exp_avg", "optimiser.0.more", "other"):
        with pytest.raises(ResumeError, match=f"holds {key}, which this run has not"):
            restored(name, replace(state, tensors={**state.tensors, key: torch.zeros(3)}))


@pytest.mark.parametrize("step", [0, 1, 100, 2**70])
def test_another_step(name: str, step: int) -> None:
    state, _ = read_state(STATE, kind=record_of().kind)
    with pytest.raises(ResumeError, match="is no state of this run"):
        restored(name, replace(state, step=step))


@pytest.mark.parametrize("strides", [(5, 0), (1, 1), (0, 0), (-1, 1), (2**70, 1), (1,), (1, 2, 3), (65, 1)])
def test_strides_that_cannot_be(name: str, strides: tuple[int, ...]) -> None:
    for key in ("param.1.weight", "param.none"):
        write(load_file(STATE), record_of(), strides={key: strides})
        with pytest.raises(ResumeError, match=f"{key} cannot be laid out as it says"):
            read_state(STATE, kind=record_of().kind)


def test_moments_in_another_layout_are_laid_out_as_their_parameter(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fused optimiser goes through all of a parameter's tensors in one order, that of the memory."""
    tensors, record = load_file(STATE), record_of()
    assert resumed(name, capsys)[0] == 0
    whole = Path("x.safetensors").read_bytes()
    matrices = [key for key, value in tensors.items() if key.startswith("optimiser.") and value.ndim == 2]
    assert matrices
    write(tensors, record, strides={key: (1, len(tensors[key])) for key in matrices})
    assert resumed(name, capsys)[0] == 0
    assert Path("x.safetensors").read_bytes() == whole

"""Several processes on one run, as torchrun starts them, against one."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ntt_cli.errors import UsageError
from ntt_cli.files.state import State
from ntt_cli.runs.checkpointer import no_checkpoints
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup, this_process_group
from ntt_cli.runtime.signals import Interrupted
from tests.cli.conftest import Ntt, ntt  # noqa: F401
from tests.processes import Fork, forked
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

TRANSFER = ["-s", "0.8", "--steps", "8", "--mask-update-every", "2", "--limit", "60", "--batch-size", "10"]
STATE = Path("sparse.resume.safetensors")
TRAINING = ["--epochs", "2", "--limit", "60", "--batch-size", "10", "--validation", "0.2"]


@contextlib.contextmanager
def group(size: int, *arguments: str) -> Generator[list[Fork]]:
    """What `torchrun` starts on one node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NO_COLOR": "1"}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(forked(arguments, own | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(size)
        ]


def send_during_the_steps(rank: int, number: signal.Signals) -> list[tuple[int, str, str]]:
    """What two processes leave, one of which is sent a signal once a step is saved; they would take days."""
    model = write_network("plain")
    with group(2, "prune", model, "-s", "0.5", "--steps", "1000000", "--checkpoint-every", "0") as processes:
        while not STATE.exists():
            assert all(each.process.is_alive() for each in processes), outcome(processes)
            time.sleep(0.05)
        processes[rank].send_signal(number)
        return outcome(processes)


def outcome(processes: list[Fork]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    return [process.outcome() for process in processes]


def run(size: int, *arguments: str) -> list[tuple[int, str, str]]:
    with group(size, *arguments) as processes:
        return outcome(processes)


def run_one_or_two(size: int, here: Ntt, *arguments: str) -> list[tuple[int, str, str]]:
    """One process is this one, where torch is loaded already."""
    if size > 1:
        return run(size, *arguments)
    done = here(*arguments)
    return [(done.code, done.out, done.err)]


def assert_same(one: str, two: str, *, tolerance: float) -> None:
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value != 0, second[name] != 0), name
        torch.testing.assert_close(second[name], value, rtol=tolerance, atol=tolerance, msg=name)


BY_RANK = """
import os, torch
from {name} import *
RANK = int(os.environ.get("RANK", 0))

class Scaled(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("scale", torch.tensor(1.0 + RANK), persistent=False)

    def forward(self, x):
        return self.scale * self.inner(x)

plain = build_model
def build_model():
    torch.manual_seed(100 + RANK)
    return Scaled(plain())
"""


def by_rank(name: str) -> str:
    """That network, with weights and a buffer that are others in each process."""
    own = Path(write_network(name))
    Path("by_rank.py").write_text(BY_RANK.format(name=own.stem))
    return "by_rank.py"


def test_two_processes_prune_as_one_does(ntt: Ntt) -> None:  # noqa: F811
    """Convolutions and batch normalisation included; masks are equal, weights up to rounding.

    The first process's network is all of them's.
    """
    model = by_rank("convolutional")
    for size, output in ((1, "one.safetensors"), (2, "two.safetensors")):
        results = run_one_or_two(size, ntt, "prune", model, *TRANSFER, "-o", output, "--json")
        assert [code for code, _, _ in results] == [0] * size, results
        assert json.loads(results[0][1])["output"] == output
        assert all(words == "" for _, *words in [(0, *heard[1:]) for heard in results[1:]] for words in words)
    assert_same("one.safetensors", "two.safetensors", tolerance=1e-4)
    assert {path.name for path in Path().glob("*.safetensors")} == {
        f"{name}{kind}.safetensors" for name in ("one", "two") for kind in ("", ".report")
    }


def test_two_processes_train_as_one_does(ntt: Ntt) -> None:  # noqa: F811
    model = by_rank("plain")
    assert ntt("prune", model, *TRANSFER, "-q").code == 0
    for size, output in ((1, "one.safetensors"), (2, "two.safetensors")):
        tuning = ["finetune", model, "-c", "sparse.safetensors", *TRAINING, "-o", output, "-q"]
        results = run_one_or_two(size, ntt, *tuning)
        assert [code for code, _, _ in results] == [0] * size, results
    assert_same("one.safetensors", "two.safetensors", tolerance=1e-5)


WHOLE = """
import torch
from torch import nn
from torch.utils.data import DataLoader

class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.outer = nn.Embedding(20, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, ids, mask):
        weights = mask[..., None].float()
        return self.outer((self.inner(self.embedding(ids)).tanh() * weights).sum(1) / weights.sum(1))

def build_model():
    return Padded()

def collated(items):
    lengths = torch.tensor([len(ids) for ids, _ in items])
    ids = nn.utils.rnn.pad_sequence([ids for ids, _ in items], batch_first=True)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return {"ids": ids, "mask": mask, "labels": torch.tensor([label for _, label in items])}

def build_data():
    draw = torch.Generator().manual_seed(0)
    items = [(torch.randint(0, 20, (1 + i % 7,), generator=draw), i % 3) for i in range(40)]
    return DataLoader(items, batch_size=5, collate_fn=collated)
"""


def test_two_processes_take_whole_batches_as_one_does(ntt: Ntt) -> None:  # noqa: F811
    """Dicts of padded sequences, each batch of another length; each step takes as many batches."""
    Path("whole.py").write_text(WHOLE)
    data = ["whole.py", "-d", "whole.py:build_data"]
    pruning = ["-s", "0.5", "--steps", "5", "--mask-update-every", "2", "--batch-size", "4"]
    tuning = ["-c", "one.safetensors", "--epochs", "2", "--batch-size", "2", "--validation", "0.3"]
    for command, options, kind in (("prune", pruning, ""), ("finetune", tuning, "_tuned")):
        for size, name in ((1, "one"), (2, "two")):
            output = f"{name}{kind}.safetensors"
            results = run_one_or_two(size, ntt, command, *data, *options, "-o", output, "-q")
            assert [code for code, _, _ in results] == [0] * size, results
        assert_same(f"one{kind}.safetensors", f"two{kind}.safetensors", tolerance=1e-5)


def test_a_process_that_dies_ends_the_others_with_a_word() -> None:
    (code, _, words), _ = send_during_the_steps(1, signal.SIGKILL)
    assert code == 2
    assert "error: process 0 of 2: cannot reach the others" in words
    assert "go on with --resume" in words
    assert STATE.exists()


def test_a_signal_while_the_others_are_asked_counts_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be forgotten, or one process would end and leave the others waiting for it."""
    checkpointer = replace(no_checkpoints(), group=ProcessGroup(rank=1, size=2))

    def maximum(group: ProcessGroup, number: int) -> int:
        checkpointer.stop.asked = 15
        return number

    monkeypatch.setattr(ProcessGroup, "maximum", maximum)
    state = State(step=1, tensors={}, values={})
    checkpointer.maybe_save(lambda: state)
    with pytest.raises(Interrupted):
        checkpointer.maybe_save(lambda: state)


def test_a_signal_to_one_ends_all_after_the_same_step() -> None:
    results = send_during_the_steps(1, signal.SIGTERM)
    assert [code for code, _, _ in results] == [143, 143]
    assert "sparse.resume.safetensors holds step" in results[0][2]
    assert "torchrun … -m ntt_cli prune" in results[0][2]
    assert results[1][2] == ""


STOPS = """
import os, signal
from torch import nn

class Stops(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)), 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 7 and "STOP_NOW" in os.environ:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.inner(x)

def build_model():
    return Stops()
"""


def test_dropout_goes_on_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draws other entries; after a resume they are those of the run that was not interrupted."""
    Path("stops.py").write_text(STOPS)
    training = ["finetune", "stops.py", "--data", "digits", *TRAINING, "-o", "x.safetensors", "-q"]
    assert [code for code, *_ in run(2, *training)] == [0, 0]
    whole = Path("x.safetensors").read_bytes()
    monkeypatch.setenv("STOP_NOW", "1")
    assert [code for code, *_ in run(2, *training, "--force")] == [143, 143]
    monkeypatch.delenv("STOP_NOW")
    assert [code for code, *_ in run(2, *training, "--force", "--resume")] == [0, 0]
    assert Path("x.safetensors").read_bytes() == whole


def test_errors_say_which_process_met_them() -> None:
    results = run(2, "prune", "missing.py", "-s", "0.5")
    assert [code for code, _, _ in results] == [2, 2]
    assert results[0][2].startswith("error: missing.py: there is no such file")
    assert results[1][2].startswith("error: process 1: missing.py: there is no such file")


DIFFERENT = """
import os, torch
RANK = int(os.environ.get("RANK", 0))
X, Y = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10
def shared():
    return X[RANK::2], Y[RANK::2]
def relabelled():
    return X, Y.roll(RANK)
def broken():
    return X if RANK == 0 else X.nothing
"""


@pytest.mark.parametrize(
    ("command", "data"), [(["prune", "-s", "0.5", "--steps", "4"], "shared"), (["finetune"], "relabelled")]
)
def test_data_that_follow_the_rank_are_refused(command: list[str], data: str) -> None:
    Path("data.py").write_text(DIFFERENT)
    name, *options = command
    results = run(2, name, write_network("plain"), "-d", f"data.py:{data}", *options, "-o", "x.safetensors")
    assert [code for code, _, _ in results] == [2, 2]
    assert "error: the data: not the same in all 2 processes" in results[0][2]
    assert "whatever RANK is" in results[0][2]
    assert results[1][2].startswith("error: process 1: the data: not the same")
    assert not Path("x.safetensors").exists()


def test_a_process_that_cannot_start_ends_the_others() -> None:
    Path("data.py").write_text(DIFFERENT)
    command = ["prune", write_network("plain"), "-d", "data.py:broken", "-s", "0.5", "--steps", "4"]
    results = run(2, *command)
    assert [code for code, _, _ in results] == [2, 2]
    assert "error: process 0 of 2: cannot start without the others" in results[0][2]
    assert results[1][2].startswith("error: process 1: data.py: raised AttributeError")
    # Nor does the first, which alone looks at the output.
    Path("sparse.safetensors").write_text("mine")
    results = run(2, *command[:2], "-s", "0.5", "--steps", "4")
    assert [code for code, _, _ in results] == [2, 2]
    assert "error: sparse.safetensors: exists already" in results[0][2]
    assert "cannot start without the others" in results[1][2]


def test_fewer_samples_than_processes_are_refused() -> None:
    ProcessGroup(rank=0, size=4).require(4)
    with pytest.raises(UsageError, match="leaves 3 samples to 4 processes at once"):
        ProcessGroup(rank=0, size=4).require(3)


def test_an_option_for_one_process_is_refused_where_there_are_more() -> None:
    ProcessGroup().require_one(True, "--compile")
    ProcessGroup(rank=1, size=2).require_one(False, "--compile")
    with pytest.raises(UsageError, match="^--compile: works in one process alone$"):
        ProcessGroup(rank=1, size=2).require_one(True, "--compile")


def test_shares_are_a_partition() -> None:
    values = torch.arange(11)
    shares = [ProcessGroup(rank, 3).share(values) for rank in range(3)]
    assert torch.cat(shares).sort().values.tolist() == list(range(11))
    assert [len(share) for share in shares] == [4, 4, 3]


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert this_process_group() == SINGLE
    tensors = {"a": torch.ones(2)}
    assert SINGLE.all_reduce(tensors) is tensors
    assert SINGLE.broadcast(tensors) is tensors
    assert SINGLE.maximum(7) == 7


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_process_group() == ProcessGroup(rank=2, size=4)
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(UsageError, match="RANK=two WORLD_SIZE=4: is no process of a run"):
        this_process_group()

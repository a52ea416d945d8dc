"""Interrupted after any step and resumed, a run ends in the bytes of one that was not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ntt_cli.config import FinetuneConfig, PruneConfig
from ntt_cli.errors import DivergedError, OutputError, ResumeError
from ntt_cli.files.metadata import StateRecord, read_header
from ntt_cli.methods.ntt import plan as plan
from ntt_cli.methods.ntt import settings
from ntt_cli.pruning import prune
from ntt_cli.runs import checkpointer, outcome
from ntt_cli.runtime.events import Event, Noted, Warned
from ntt_cli.runtime.signals import Interrupted, Stop
from ntt_cli.training import finetune
from tests.parts import read_of
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder", "few_rounds")

TORTURE = "NTT_TORTURE" in os.environ
STATE = Path("x.resume.safetensors")
FILES = (Path("x.safetensors"), Path("x.report.safetensors"))


@dataclass
class After(Stop):
    """Asks for the end after so many looks."""

    looks: int = 1

    def follow_request(self) -> int | None:
        self.looks -= 1
        if self.looks == 0:
            self.asked = 2
        return super().follow_request()


def pruning(name: str = "plain", **values: Any) -> PruneConfig:
    options = {"sparsity": 0.8, "steps": 7, "mask_update_every": 2, "limit": 20, "device": "cpu", "batch_size": 8}
    return PruneConfig(model=write_network(name), output="x.safetensors", **read_of(options, values))


def tuning(name: str = "plain", **values: Any) -> FinetuneConfig:
    options = {"epochs": 2, "limit": 40, "batch_size": 12, "device": "cpu", "checkpoint_every": 60.0}
    return FinetuneConfig(model=write_network(name), output="x.safetensors", **(options | values))


def run(config: PruneConfig | FinetuneConfig, stop: Stop | None = None) -> list[Event]:
    events: list[Event] = []
    work: Callable[..., object] = prune.run if isinstance(config, PruneConfig) else finetune.run
    work(config, events.append, stop)
    return events


def written() -> list[bytes]:
    """The bytes of what a finished run leaves, which is all that it leaves."""
    assert not STATE.exists()
    assert not list(Path().glob(".*"))
    data = [path.read_bytes() for path in FILES]
    for path in FILES:
        path.unlink()
    return data


def interrupted(config: PruneConfig | FinetuneConfig, looks: int) -> int:
    """Interrupt the run after so many looks, and return the steps that are done."""
    with pytest.raises(Interrupted) as caught:
        run(config, After(looks=looks))
    assert not any(path.exists() for path in FILES)
    record = read_header(STATE).record
    assert isinstance(record, StateRecord)
    assert caught.value.kept == f"{STATE} holds step {record.step}"
    return record.step


def resumed(config: PruneConfig | FinetuneConfig, **changes: Any) -> list[Event]:
    return run(config.model_copy(update={"resume": True} | changes))


def messages(events: list[Event]) -> list[str]:
    """All that is told, but for what is told before any run."""
    told = [event.message for event in events if isinstance(event, Noted | Warned)]
    before = ("data: ", "inputs: ", "prunable: ", "weights: ", "to do: ")
    return [message for message in told if not message.startswith(before)]


def two_convolutions() -> str:
    """The second has several inputs, so that its weights are laid out in another order, channels last."""
    Path("two.py").write_text("""
from torch import nn
def build_model():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 10))
""")
    return "two.py"


def noisy() -> str:
    """Data whose items are others in each reading, by three generators."""
    Path("noisy.py").write_text("""
import random
import numpy as np, torch
class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 45
    def __getitem__(self, i):
        x = torch.linspace(-1, 1, 64).roll(i).view(1, 8, 8)
        return x + torch.randn(1, 8, 8) + np.float32(np.random.randn()) + random.random(), i % 10
def build_data():
    return Noisy()
""")
    return "noisy.py"


def whole(kind: str) -> str:
    """Whole batches: of a loader with workers that shuffles ragged items, or of a stream that draws."""
    Path("whole.py").write_text("""
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
class Ragged(Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, i):
        return torch.randn(1, 8, 8 * (1 + i % 2), generator=torch.Generator().manual_seed(i))[..., :8] + torch.rand(1)
class Stream(IterableDataset):
    def __iter__(self):
        for size in (3, 5, 2):
            yield torch.randn(size, 1, 8, 8)
def build_loader():
    def collated(items):
        return {"x": torch.stack(items)}, None
    return DataLoader(Ragged(), batch_size=5, collate_fn=collated, shuffle=True, num_workers=2)
def build_stream():
    return DataLoader(Stream(), batch_size=None)
""")
    return f"whole.py:build_{kind}"


CASES: dict[str, Callable[[], PruneConfig | FinetuneConfig]] = {
    "prune": pruning,
    "prune batch norm": lambda: pruning("convolutional"),
    "prune tied": lambda: pruning("tied"),
    "prune logits": lambda: pruning(kernel_weight=0),
    "prune batches": lambda: pruning(batches=2),
    "prune held": lambda: pruning(mask="synflow"),
    "prune shuffled": lambda: pruning(method="ntt-shuffled", objective="paper"),
    "prune fresh": lambda: pruning(method="ntt-fresh"),
    "prune random": lambda: pruning(data=noisy()),
    "prune random logits": lambda: pruning(data=noisy(), kernel_weight=0, batches=2),
    "prune loader with workers": lambda: pruning(data=whole("loader"), limit=None, batch_size=2),
    "prune stream": lambda: pruning(data=whole("stream"), limit=None, batch_size=2),
    "finetune": tuning,
    "finetune random": lambda: tuning("dropout", data=noisy()),
    "finetune dropout": lambda: tuning("dropout"),
    "finetune batch norm": lambda: tuning("convolutional", optimiser="sgd", weight_decay=0.1),
    "finetune best first": lambda: tuning(learning_rate=0.3, rate_schedule="constant"),
    "finetune channels last": lambda: tuning(data="digits").model_copy(update={"model": two_convolutions()}),
    "prune channels last": lambda: pruning(data="digits").model_copy(update={"model": two_convolutions()}),
    "finetune constant": lambda: tuning("tied", rate_schedule="constant", validation=0.0),
    "finetune warming up": lambda: tuning(warmup=0.7),
    "finetune warmed up": lambda: tuning(warmup=0.4, rate_schedule="constant"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_bytes_wherever_it_is_interrupted(case: str) -> None:
    config = CASES[case]()
    run(config)
    whole = written()
    # At 4 an epoch has begun, and masks are due. All cases at all three: make torture.
    for looks in (1, 4, 6) if TORTURE or case in {"prune", "prune random", "finetune"} else (4,):
        torch.manual_seed(looks)  # the state alone decides
        assert interrupted(config, looks) == looks
        torch.manual_seed(100 + looks)
        assert messages(resumed(config)) == [f"going on from step {looks}"]
        assert written() == whole


def test_a_run_of_unknown_length_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted before, between and after the looks that decide when it ends."""
    monkeypatch.setattr(plan, "AUTO_HORIZON", 20)
    monkeypatch.setattr(settings, "STEPS", 40)
    config = pruning(steps="auto")
    run(config)
    whole = written()
    for looks in (3, 13, 16, 20):
        assert interrupted(config, looks) == looks
        assert messages(resumed(config)) == [f"going on from step {looks}"]
        assert written() == whole


@pytest.mark.parametrize("case", ["prune", "finetune dropout", "finetune batch norm"])
def test_interrupted_after_each_step(case: str) -> None:
    config = CASES[case]()
    run(config)
    whole = written()
    going_on = config.model_copy(update={"resume": True})
    steps = 0
    while True:
        try:
            run(going_on, After(looks=1))
        except Interrupted:
            steps += 1
            continue
        break
    assert steps == (7 if case == "prune" else 6)
    assert written() == whole


@pytest.mark.parametrize("make", [pruning, tuning])
def test_saving_changes_nothing(make: Callable[..., PruneConfig | FinetuneConfig]) -> None:
    run(make())
    whole = written()
    run(make(checkpoint_every=0.0))
    assert written() == whole


@pytest.mark.parametrize("make", [pruning, tuning])
def test_resuming_what_is_not_there_and_what_is_done(make: Callable[..., PruneConfig | FinetuneConfig]) -> None:
    config = make()
    assert messages(resumed(config))[0] == f"there is no {STATE} to go on from; starting from the beginning"
    before = [path.read_bytes() for path in FILES]
    assert messages(resumed(config)) == ["x.safetensors is whole already, of the same run; nothing to do"]
    assert [path.read_bytes() for path in FILES] == before
    # Killed between the two files: the second is made again.
    FILES[1].unlink()
    resumed(config)
    assert written() == before


@pytest.mark.parametrize("make", [pruning, tuning])
def test_nothing_is_overwritten_by_surprise(make: Callable[..., PruneConfig | FinetuneConfig]) -> None:
    config = make()
    interrupted(config, 2)
    state = STATE.read_bytes()
    with pytest.raises(OutputError, match="holds the state of an unfinished run"):
        run(config)
    for changes, words in (
        ({"learning_rate": 0.5}, "is the state of another run: --learning-rate was"),
        ({"seed": 3, "batch_size": 4}, "--batch-size was .* and is 4; --seed was 0 and is 3"),
    ):
        with pytest.raises(ResumeError, match=words):
            resumed(config, **changes, allow_mismatch=True)
    assert STATE.read_bytes() == state
    Path(config.model).write_text(Path(config.model).read_text() + "\n")
    with pytest.raises(ResumeError, match="the model's file was"):
        resumed(config)
    make()  # as it was
    FILES[0].write_text("mine")
    with pytest.raises(OutputError, match="is of another run"):
        resumed(config)
    assert FILES[0].read_text() == "mine"
    run(config.model_copy(update={"force": True}))
    written()


def test_a_module_that_the_model_imports_was_edited() -> None:
    Path("ntt_test_parts.py").write_text("from torch import nn\nActivation = nn.Tanh\n")
    text = "from torch import nn\nfrom ntt_test_parts import Activation\ndef build_model():\n"
    Path("parts.py").write_text(f"{text}    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Activation())\n")
    config = pruning(data="digits").model_copy(update={"model": "parts.py"})
    interrupted(config, 2)
    Path("ntt_test_parts.py").write_text("from torch import nn\nActivation = nn.Sigmoid\n")
    with pytest.raises(ResumeError, match="the module ntt_test_parts was [0-9a-f]{12}… and is [0-9a-f]{12}…$"):
        resumed(config)


def test_other_weights() -> None:
    run(tuning())
    FILES[0].rename("dense.safetensors")
    FILES[1].unlink()
    config = pruning(weights="dense.safetensors")
    interrupted(config, 3)
    run(tuning(seed=1).model_copy(update={"output": "dense.safetensors", "force": True}))
    with pytest.raises(ResumeError, match="the file of weights was"):
        resumed(config)


def test_other_conditions() -> None:
    values = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32)
    np.save("x.npy", values)
    config = pruning(data="x.npy", limit=None)
    interrupted(config, 3)
    values[7, 0, 3, 3] += 0.001
    np.save("x.npy", values)
    with pytest.raises(ResumeError, match="was saved under other conditions: the data was"):
        resumed(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ResumeError, match=f"threads was {threads} and is {threads + 1}; the data") as caught:
            resumed(config)
        assert "--allow-mismatch" in caught.value.hint
        first = messages(resumed(config, allow_mismatch=True))[0]
    finally:
        torch.set_num_threads(threads)
    assert first.startswith("the result will not be that of an uninterrupted run: threads was")
    assert len(written()) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "report"])
def test_a_state_that_is_damaged_or_none(damage: str) -> None:
    config = pruning()
    interrupted(config, 2)
    data = STATE.read_bytes()
    if damage == "report":
        run(config.model_copy(update={"force": True}))
        data = FILES[1].read_bytes()
        written()
    STATE.write_bytes(data[:-9] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    if damage == "report":
        STATE.write_bytes(data)
    with pytest.raises(ResumeError) as caught:
        resumed(config)
    assert caught.value.where == str(STATE)
    assert STATE.exists()


def test_the_state_of_the_other_command() -> None:
    interrupted(pruning(), 2)
    with pytest.raises(ResumeError, match="is not a finetune state but prune state"):
        resumed(tuning())


@pytest.mark.parametrize(
    ("config", "step"),
    [
        (lambda: tuning(learning_rate=1e38), "step 2"),
        (lambda: pruning(learning_rate=1e38), "step 1"),
        (lambda: tuning(learning_rate=1e30, epochs=1, batch_size=1000, validation=0), "epoch 1"),
        (lambda: tuning(learning_rate=1e30, epochs=1, batch_size=1000), "epoch 1"),
    ],
)
def test_numbers_beyond_their_range(config: Callable[[], PruneConfig | FinetuneConfig], step: str) -> None:
    with pytest.raises(DivergedError) as caught:
        run(config())
    assert (caught.value.exit_code, caught.value.where) == (3, step)
    assert caught.value.hint == "try a smaller --learning-rate; nothing was written"
    assert not list(Path().glob("*.safetensors"))


def test_the_last_good_state_is_kept() -> None:
    """The data break at the third step: what was saved before is finite."""
    Path("breaks.py").write_text("""
import torch
from tests.small_networks import NETWORKS
namespace = {}
exec(NETWORKS["plain"], namespace)
class Breaks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = namespace["build_model"](), 0
    def forward(self, x):
        self.calls += self.training
        return self.inner(x) * (float("inf") if self.calls > 5 else 1.0)
def build_model():
    return Breaks()
""")
    config = FinetuneConfig(
        model="breaks.py",
        data="digits",
        limit=60,
        batch_size=12,
        epochs=3,
        device="cpu",
        output="x.safetensors",
        checkpoint_every=0,
    )
    with pytest.raises(DivergedError) as caught:
        run(config)
    record = read_header(STATE).record
    assert isinstance(record, StateRecord)
    assert record.step == 5
    assert (caught.value.where, caught.value.what) == ("step 6", "the training loss is no longer finite")
    assert caught.value.hint == f"try a smaller --learning-rate; {STATE} holds step 5"
    assert all(value.isfinite().all() for value in load_file(STATE).values())
    assert not FILES[0].exists()


def test_a_state_that_cannot_be_saved_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run(pruning())
    whole = written()

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OutputError(path, "cannot be written: No space left on device", hint="free some space")

    monkeypatch.setattr(checkpointer, "write_state", full)
    events = run(pruning(checkpoint_every=0))
    assert messages(events)[0].endswith("No space left on device; the run goes on, and nothing was written")
    assert written() == whole
    with pytest.raises(OutputError, match="No space left"):
        run(pruning(), After(looks=2))


@pytest.mark.parametrize("make", [pruning, tuning])
def test_a_result_that_cannot_be_written_is_not_lost(
    make: Callable[..., PruneConfig | FinetuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    run(config)
    whole = written()

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OutputError(path, "cannot be written: No space left on device", hint="free some space")

    with monkeypatch.context() as patched:
        for module in (prune, outcome):
            patched.setattr(module, "write_checkpoint", full)
        with pytest.raises(OutputError) as caught:
            run(config)
    last = 7 if isinstance(config, PruneConfig) else 6
    assert caught.value.hint == f"free some space; then go on with --resume, for {STATE} holds step {last}"
    assert messages(resumed(config)) == [f"going on from step {last}"]
    assert written() == whole


def test_methods_without_steps() -> None:
    config = pruning(method="magnitude")
    assert len(messages(resumed(config))) == 1
    assert messages(resumed(config)) == ["x.safetensors is whole already, of the same run; nothing to do"]
    assert len(written()) == 2


def test_a_dry_run_leaves_a_state_alone() -> None:
    interrupted(pruning(), 2)
    before = STATE.read_bytes()
    prune.plan(pruning(), lambda _: None)
    assert STATE.read_bytes() == before

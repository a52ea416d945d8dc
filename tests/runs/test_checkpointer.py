from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.errors import DivergedError, OutputError
from ntt_cli.files.metadata import ModelRecord, RunRecord
from ntt_cli.files.state import State, read_state
from ntt_cli.runs import checkpointer as checkpointer_module
from ntt_cli.runs.checkpointer import RunCheckpointer, no_checkpoints
from ntt_cli.runtime.events import Event, Warned
from ntt_cli.runtime.process_group import ProcessGroup
from ntt_cli.runtime.signals import Interrupted, Stop

PATH = Path("x.resume.safetensors")
RUN = RunRecord(
    config={"seed": 1}, model=ModelRecord(source="m.py", sha256=None), weights_sha256=None, data_sha256=None, machine={}
)


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(checkpointer_module, "time", clock)
    return clock


def state_of(step: int, **tensors: Tensor) -> State:
    return State(step=step, tensors={"param.w": torch.ones(2), **tensors}, values={})


def keeper_of(events: list[Event] | None = None, **values: Any) -> RunCheckpointer:
    told = [] if events is None else events
    return RunCheckpointer(
        **(
            {"path": PATH, "kind": "prune state", "run": RUN, "every": 60.0, "stop": Stop(), "on_event": told.append}
            | values
        )
    )


def saved() -> int | None:
    """The step of the state on disk."""
    return read_state(PATH, kind="prune state")[0].step if PATH.exists() else None


def full(*_: Any, **__: Any) -> None:
    raise OutputError(PATH, "cannot be written: No space left on device", hint="free some space")


pytestmark = pytest.mark.usefixtures("folder")


def test_a_state_is_saved_when_it_is_time(clock: Clock) -> None:
    checkpointer = keeper_of()
    assert checkpointer.kept == "nothing was written"
    for seconds, step, on_disk in ((59.9, 1, None), (0.1, 2, 2), (59.0, 3, 2), (1.0, 4, 4), (10.0, 5, 4)):
        clock.now += seconds
        checkpointer.maybe_save(lambda step=step: state_of(step))
        assert saved() == on_disk
    assert checkpointer.kept == f"{PATH} holds step 4"


def test_a_state_is_not_even_made_before_its_time(clock: Clock) -> None:
    keeper_of().maybe_save(lambda: pytest.fail("made"))


def test_every_step_where_no_time_is_to_pass(clock: Clock) -> None:
    checkpointer = keeper_of(every=0)
    for step in (1, 2, 3):
        checkpointer.maybe_save(lambda step=step: state_of(step))
        assert saved() == step


def test_what_is_saved_is_what_was_offered(clock: Clock) -> None:
    checkpointer = keeper_of(every=0)
    checkpointer.maybe_save(lambda: state_of(1_234, extra=torch.tensor([0.5, -0.0])))
    found, run = read_state(PATH, kind="prune state")
    assert run == RUN
    assert torch.equal(found.tensors["extra"], torch.tensor([0.5, -0.0]))
    assert checkpointer.kept == f"{PATH} holds step 1,234"


def test_a_request_to_end_saves_at_once(clock: Clock) -> None:
    checkpointer = keeper_of(stop=Stop(asked=15))
    with pytest.raises(Interrupted) as caught:
        checkpointer.maybe_save(lambda: state_of(7))
    assert (caught.value.number, caught.value.kept) == (15, f"{PATH} holds step 7")
    assert saved() == 7


def test_what_was_found_is_kept_until_there_is_more(clock: Clock) -> None:
    checkpointer = keeper_of(found=state_of(7), stop=Stop(asked=2))
    assert checkpointer.kept == f"{PATH} holds step 7"
    with pytest.raises(Interrupted, match="holds step 7"):
        checkpointer.maybe_save(lambda: state_of(7))
    assert saved() is None  # it was there before, and need not be written again


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["param.w", "buffer.bn.running_mean"])
def test_numbers_that_are_not_finite_are_never_saved(clock: Clock, name: str, value: float) -> None:
    checkpointer = keeper_of(every=0)
    checkpointer.maybe_save(lambda: state_of(1))
    with pytest.raises(DivergedError) as caught:
        checkpointer.maybe_save(lambda: state_of(2, **{name: torch.tensor([1.0, value])}))
    assert str(caught.value) == f"step 2: {name.partition('.')[2]} is no longer finite"
    assert caught.value.hint == f"try a smaller --learning-rate; {PATH} holds step 1"
    assert saved() == 1
    checkpointer.maybe_save(lambda: state_of(2, **{"buffer.mask": torch.tensor([value])}))
    assert saved() == 2


def test_only_parameters_that_are_trained_must_be_finite(clock: Clock) -> None:
    checkpointer = keeper_of(every=0)
    frozen, trained = (nn.Parameter(torch.tensor([torch.nan]), requires_grad=trained) for trained in (False, True))
    checkpointer.maybe_save(lambda: state_of(1, **{"param.a": frozen}))
    assert saved() == 1
    with pytest.raises(DivergedError, match="^step 2: a is no longer finite$"):
        checkpointer.maybe_save(lambda: state_of(2, **{"param.a": trained}))


def test_squares_and_counts_may_be_anything(clock: Clock) -> None:
    keeper_of(every=0).maybe_save(
        lambda: state_of(1, **{"optimiser.0.exp_avg_sq": torch.tensor([float("inf")]), "buffer.n": torch.tensor(3)})
    )
    assert saved() == 1


def test_a_state_that_cannot_be_saved_is_tried_again_when_it_is_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    checkpointer = keeper_of(events)
    with monkeypatch.context() as patched:
        patched.setattr(checkpointer_module, "write_state", full)
        clock.now += 60
        checkpointer.maybe_save(lambda: state_of(1))
    assert events == [
        Warned(f"{PATH}: cannot be written: No space left on device; the run goes on, and nothing was written")
    ]
    clock.now += 59
    checkpointer.maybe_save(lambda: state_of(2))
    assert saved() is None
    clock.now += 1
    checkpointer.maybe_save(lambda: state_of(3))
    assert saved() == 3
    assert len(events) == 1


def test_a_whole_result_needs_no_state(clock: Clock) -> None:
    checkpointer = keeper_of(every=0)
    checkpointer.maybe_save(lambda: state_of(1))
    checkpointer.save_if_unfinished(lambda: state_of(2))
    with checkpointer.finishing():
        assert saved() == 1
    assert saved() is None


def test_a_state_that_cannot_be_removed_does_no_harm(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer_module, "remove_durably", full)
    with keeper_of().finishing():
        pass


def test_the_end_is_saved_where_the_result_cannot_be_written(clock: Clock) -> None:
    checkpointer = keeper_of()
    checkpointer.save_if_unfinished(lambda: state_of(9))
    error = OutputError("x.safetensors", "cannot be written", hint="free some space")
    with pytest.raises(OutputError) as caught, checkpointer.finishing():
        raise error
    assert str(caught.value) == "x.safetensors: cannot be written"
    assert caught.value.hint == f"free some space; then go on with --resume, for {PATH} holds step 9"
    assert caught.value.__cause__ is error
    assert saved() == 9


def test_nothing_is_promised_where_the_end_cannot_be_saved_either(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer_module, "write_state", full)
    checkpointer = keeper_of()
    checkpointer.save_if_unfinished(lambda: state_of(9))
    with pytest.raises(OutputError) as caught, checkpointer.finishing():
        raise OutputError("x.safetensors", "cannot be written", hint="free some space")
    assert str(caught.value) == "x.safetensors: cannot be written"
    assert caught.value.hint == "free some space"


@pytest.mark.parametrize("how", [lambda: Interrupted(2), lambda: RuntimeError("in torch, while it cleans up")])
def test_interrupted_while_the_result_is_measured(clock: Clock, how: Callable[[], BaseException]) -> None:
    checkpointer = keeper_of(stop=Stop(asked=2))
    checkpointer.save_if_unfinished(lambda: state_of(9))
    with pytest.raises(Interrupted) as caught, checkpointer.finishing():
        raise how()
    assert (caught.value.number, caught.value.kept) == (2, f"{PATH} holds step 9")
    assert saved() == 9


def test_other_errors_pass_and_save_nothing(clock: Clock) -> None:
    checkpointer = keeper_of()
    checkpointer.save_if_unfinished(lambda: state_of(9))
    with pytest.raises(ZeroDivisionError), checkpointer.finishing():
        raise ZeroDivisionError
    assert saved() is None


def test_only_the_first_of_several_processes_writes_and_removes(clock: Clock) -> None:
    keeper_of(every=0).maybe_save(lambda: state_of(1))
    other = keeper_of(every=0, group=ProcessGroup(rank=1, size=1))
    other.maybe_save(lambda: state_of(2))
    other.save_if_unfinished(lambda: state_of(3))
    with other.finishing():
        pass
    assert saved() == 1


def end_of(checkpointer: RunCheckpointer, step: int) -> int | None:
    """The signal after which a run ends at this step; `None` if it goes on."""
    try:
        checkpointer.maybe_save(lambda: state_of(step))
    except Interrupted as interruption:
        return interruption.number
    return None


@pytest.mark.parametrize(("own", "others"), [(None, 0), (None, 15), (2, 0), (2, 2)])
def test_processes_end_after_the_same_step(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, own: int | None, others: int
) -> None:
    asked: list[int] = []

    def maximum(_: ProcessGroup, value: int) -> int:
        asked.append(value)
        return max(value, others)

    monkeypatch.setattr(ProcessGroup, "maximum", maximum)
    checkpointer = keeper_of(group=ProcessGroup(rank=0, size=2), stop=Stop(asked=own))
    number = own or others or None
    assert end_of(checkpointer, 4) == number
    assert checkpointer.stop.asked == number
    assert saved() == (None if number is None else 4)
    assert asked == [own or 0]


def test_a_signal_while_the_processes_ask_each_other_counts_at_the_next_step(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one of them would end a step before the others."""
    checkpointer = keeper_of(group=ProcessGroup(rank=0, size=2))

    def maximum(_: ProcessGroup, value: int) -> int:
        checkpointer.stop.asked = 15
        return value

    monkeypatch.setattr(ProcessGroup, "maximum", maximum)
    assert [end_of(checkpointer, step) for step in (1, 2)] == [None, 15]
    assert saved() == 2


def test_a_keeper_of_nothing_never_writes(clock: Clock) -> None:
    checkpointer = no_checkpoints()
    clock.now += 1e12
    checkpointer.maybe_save(lambda: pytest.fail("made"))
    assert not list(Path().iterdir())

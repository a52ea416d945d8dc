from __future__ import annotations

from ntt_cli.comparison.queue import TrialQueue, failure_of
from ntt_cli.comparison.results import TrialFailure
from ntt_cli.comparison.trial import Trial, trials_of
from ntt_cli.config import CompareConfig
from ntt_cli.errors import DivergedError
from ntt_cli.runtime.events import Event, TrialsChanged


def queue_of(events: list[Event], *, rates: tuple[float, ...] = ()) -> TrialQueue:
    config = CompareConfig(
        model="m.py", methods=("random", "snip"), sparsities=(0.9,), seeds=(1, 2), learning_rates=rates
    )
    return TrialQueue(config, trials_of(config), events.append)


def diverged(trial: Trial) -> TrialFailure:
    return TrialFailure(trial=trial.name, what="diverged", exit_code=3)


def name(trial: Trial | None) -> str | None:
    return None if trial is None else trial.name


def test_trials_begin_in_their_order() -> None:
    queue = queue_of([])
    names = [name(queue.start_next()) for _ in range(5)]
    assert names == ["random-0.9-seed1", "snip-0.9-seed1", "random-0.9-seed2", "snip-0.9-seed2", None]


def test_a_trial_waits_for_its_learning_rate_source() -> None:
    queue = queue_of([], rates=(0.1, 0.2))
    random, snip = queue.start_next(), queue.start_next()
    assert random is not None
    assert snip is not None
    assert queue.start_next() is None
    queue.end(snip, None)
    assert name(queue.start_next()) == "snip-0.9-seed2"
    assert queue.start_next() is None
    queue.end(random, diverged(random))  # its follower begins, to fail with an error that says so
    assert name(queue.start_next()) == "random-0.9-seed2"


def test_every_change_is_told() -> None:
    events: list[Event] = []
    queue = queue_of(events)
    queue.tell()
    first, second = queue.start_next(), queue.start_next()
    assert first is not None
    assert second is not None
    queue.end(second, diverged(second))
    queue.end(first, None)
    assert events == [
        TrialsChanged(done=0, failed=0, total=4, running=()),
        TrialsChanged(done=0, failed=0, total=4, running=(first.name,)),
        TrialsChanged(done=0, failed=0, total=4, running=(first.name, second.name)),
        TrialsChanged(done=0, failed=1, total=4, running=(first.name,)),
        TrialsChanged(done=1, failed=1, total=4, running=()),
    ]
    assert queue.failed == [diverged(second)]


def test_failures() -> None:
    (trial, *_) = queue_of([]).waiting
    known = failure_of(trial, DivergedError("x", "is not finite", hint="lower the rate"))
    assert known == TrialFailure(trial=trial.name, what="x: is not finite; lower the rate", exit_code=3)
    unknown = failure_of(trial, ZeroDivisionError("of ntt"))
    assert unknown.exit_code == 70
    assert unknown.what.endswith("ZeroDivisionError: of ntt\n")

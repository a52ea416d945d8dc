from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from ntt_cli.comparison import compare, queue
from ntt_cli.comparison.queue import run_trials_in_process
from ntt_cli.comparison.trial import Trial, result_of, trials_of
from ntt_cli.config import CompareConfig
from ntt_cli.runtime.events import Event, TrialsChanged
from ntt_cli.runtime.signals import Interrupted
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

FAILING = """
import torch

class Failing(Net):
    calls = 0

    def forward(self, x):
        Failing.calls += self.training
        if Failing.calls == 2:
            raise FAILURE
        return super().forward(x)

def build_model():
    return Failing() if torch.initial_seed() == 2 else Net()
"""


def config(**values: Any) -> CompareConfig:
    common = {"sparsities": (0.8,), "seeds": (1,), "epochs": 1, "limit": 100, "device": "cpu", "methods": ("random",)}
    return CompareConfig(model=write_network("plain"), **common | values)


def test_the_results_are_those_of_other_processes() -> None:
    given: dict[str, Any] = {"seeds": (1, 2), "learning_rates": (1e-3, 1e-2)}
    compare.run(config(**given, output="workers"), lambda _: None)
    events: list[Event] = []
    report = compare.run(config(**given, output="here"), events.append, in_process=True)
    assert (len(report.results), report.failed) == (2, [])
    assert Path("here/results.csv").read_bytes() == Path("workers/results.csv").read_bytes()
    assert [event for event in events if isinstance(event, TrialsChanged)] == [
        TrialsChanged(done=0, failed=0, total=2, running=()),
        TrialsChanged(done=0, failed=0, total=2, running=("random-0.8-seed1",)),
        TrialsChanged(done=1, failed=0, total=2, running=()),
        TrialsChanged(done=1, failed=0, total=2, running=("random-0.8-seed2",)),
        TrialsChanged(done=2, failed=0, total=2, running=()),
    ]


def test_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: pytest.fail("starts a process"))
    report = compare.run(config(jobs=2), lambda _: None, in_process=True)
    assert len(report.results) == 1


@pytest.mark.parametrize(
    ("failure", "what"), [("ValueError('x')", "raised ValueError: x"), ("SystemExit(0)", "called sys.exit(0)")]
)
def test_a_trial_that_fails_does_not_end_the_others(failure: str, what: str) -> None:
    chosen = config(seeds=(1, 2, 3))
    Path(chosen.model).write_text(Path(chosen.model).read_text() + FAILING.replace("FAILURE", failure))
    compare.prepare(chosen, lambda _: None, write=True)
    (failed,) = run_trials_in_process(chosen, trials_of(chosen), lambda _: None)
    assert (failed.trial, failed.exit_code) == ("random-0.8-seed2", 2)
    assert what in failed.what
    assert [result_of(chosen, trial) is not None for trial in trials_of(chosen)] == [True, False, True]


def test_trials_whose_learning_rate_source_failed() -> None:
    chosen = config(seeds=(1, 2), learning_rates=(1e30, 1e31))
    report = compare.run(chosen, lambda _: None, in_process=True)
    first, second = report.failed
    assert (first.trial, first.exit_code) == ("random-0.8-seed1", 3)
    assert "random-0.8-seed2: takes its learning rate from random-0.8-seed1, which has no result" in second.what


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), Interrupted(15)])
def test_an_interrupt_goes_through_as_it_is(interrupt: KeyboardInterrupt, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(seeds=(1, 2))
    begun: list[Trial] = []

    def interrupted(_: CompareConfig, trial: Trial, **_sources: object) -> None:
        begun.append(trial)
        raise interrupt

    monkeypatch.setattr(queue, "run_trial", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_trials_in_process(chosen, trials_of(chosen), lambda _: None)
    assert caught.value is interrupt
    assert begun == trials_of(chosen)[:1]

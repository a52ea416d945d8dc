"""The queue of a comparison's trials: which wait, which run, and how the others ended; and a run of it here."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from ntt_cli.comparison.results import TrialFailure
from ntt_cli.comparison.trial import Trial, learning_rate_source, run_trial
from ntt_cli.config import CompareConfig
from ntt_cli.errors import INTERNAL_ERROR, NttError
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink, TrialsChanged
from ntt_cli.runtime.python_source import blame


@dataclass
class TrialQueue:
    """The trials to run, in the order in which they begin; `on_event` is told of every change by a `TrialsChanged`.

    `running` are those at work, `done` counts those that ended with a result, `failed` are the others that ended.
    """

    config: CompareConfig
    waiting: list[Trial]
    on_event: EventSink
    running: list[Trial] = field(default_factory=list)
    done: int = 0
    failed: list[TrialFailure] = field(default_factory=list)

    def tell(self) -> None:
        total = self.done + len(self.failed) + len(self.running) + len(self.waiting)
        names = tuple(trial.name for trial in self.running)
        self.on_event(TrialsChanged(done=self.done, failed=len(self.failed), total=total, running=names))

    def start_next(self) -> Trial | None:
        """Begin the first waiting trial whose learning rate source has ended; `None` if there is no such trial.

        If the source failed, its followers begin too, and each fails with an error that names the source.
        """
        unfinished = [*self.waiting, *self.running]
        for trial in self.waiting:
            if learning_rate_source(self.config, trial) not in unfinished:
                self.waiting.remove(trial)
                self.running.append(trial)
                self.tell()
                return trial
        return None

    def end(self, trial: Trial, failure: TrialFailure | None) -> None:
        """Note that a running trial has ended, with a result if `failure` is `None`."""
        self.running.remove(trial)
        if failure is None:
            self.done += 1
        else:
            self.failed.append(failure)
        self.tell()


def failure_of(trial: Trial, error: BaseException) -> TrialFailure:
    """What a trial failed with: in one line for an error of ntt or of the user's code, else with its traceback."""
    known = error if isinstance(error, NttError) else blame(error)
    if known is None:
        whole = "".join(traceback.format_exception(error))
        return TrialFailure(trial=trial.name, what=whole, exit_code=INTERNAL_ERROR)
    what = f"{known.where}: {known.what}; {known.hint}"
    return TrialFailure(trial=trial.name, what=what, exit_code=known.exit_code)


def run_trials_in_process(
    config: CompareConfig, trials: Sequence[Trial], on_event: EventSink, sources: Sources = AS_NAMED
) -> list[TrialFailure]:
    """Run the trials as `workers.run_trials` does, for models and data that cannot be sent to another process.

    `config.jobs` is not read: one trial runs at a time. An interrupt ends the comparison, and is raised as it is.
    """
    queue = TrialQueue(config, list(trials), on_event)
    queue.tell()
    while (trial := queue.start_next()) is not None:
        failure = None
        try:
            run_trial(config, trial, sources=sources)
        except (Exception, SystemExit) as error:  # a network may call sys.exit
            failure = failure_of(trial, error)
        queue.end(trial, failure)
    return queue.failed
